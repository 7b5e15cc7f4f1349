"""Files that name other files, or addresses: none of which may be looked at."""

from curate import media
from curate.cases import BROKEN, GOOD, NO_VIDEO, plain
from curate.media import box, changed, scene, u32


def targets(made):
    return {
        "near": "../canary.bin",
        "far": str(made.outside / "canary.bin"),
        "text": f"file://{made.outside / 'canary.txt'}",
        "http": f"http://127.0.0.1:{made.port}/clip.ts",
        "tcp": f"tcp://127.0.0.1:{made.port}",
        "udp": f"udp://127.0.0.1:{made.port}",
    }


def texts(target, port):
    """Texts that some reader of videos would take for a list of others."""
    hls = "#EXTM3U\n#EXT-X-TARGETDURATION:9\n"
    return {
        "ffconcat": f"ffconcat version 1.0\nfile '{target}'\nduration 1\n",
        "concat": f"file '{target}'\n",
        "hls": f"{hls}#EXTINF:9,\n{target}\n#EXT-X-ENDLIST\n",
        "hlskey": f'{hls}#EXT-X-KEY:METHOD=AES-128,URI="{target}"\n#EXTINF:9,\n{target}\n',
        "hlsmap": f'{hls}#EXT-X-MAP:URI="{target}"\n#EXTINF:9,\n{target}\n#EXT-X-ENDLIST\n',
        "master": f"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n{target}\n",
        "dash": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static">'
        f"<Period><AdaptationSet><Representation id='1'><BaseURL>{target}</BaseURL>"
        "</Representation></AdaptationSet></Period></MPD>",
        "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\n"
        f"m=video {port} RTP/AVP 96\na=rtpmap:96 H264/90000\n",
        "pls": f"[playlist]\nNumberOfEntries=1\nFile1={target}\n",
        "xspf": f'<?xml version="1.0"?><playlist version="1"><trackList><track><location>{target}'
        "</location></track></trackList></playlist>",
        "asx": f'<asx version="3.0"><entry><ref href="{target}"/></entry></asx>',
        "reftext": f"RTSPtext\n{target}\n",
        "smil": f'<smil><body><video src="{target}"/></body></smil>',
        "avisynth": f'AVISource("{target}")\n',
        "imf": f'<?xml version="1.0"?><CompositionPlaylist><Id>{target}</Id></CompositionPlaylist>',
        "ffmetadata": f";FFMETADATA1\ntitle={target}\n",
        "svg": f'<svg xmlns="http://www.w3.org/2000/svg"><image href="{target}"/></svg>',
    }  # fmt: skip


MAGIC = {
    "ftyp": b"\x00\x00\x00\x14ftypisom\x00\x00\x00\x00isom\n",
    "ebml": b"\x1a\x45\xdf\xa3\x80\n",
    "riff": b"RIFF\x04\x00\x00\x00AVI \n",
    "mpeg": b"\x00\x00\x01\xba\n",
}


def playlists(made):
    suffixes = (".mp4", ".mkv", ".avi", ".ts", ".mov", ".webm")
    count = 0
    for aim, target in targets(made).items():
        for form, text in texts(target, made.port).items():
            suffix = suffixes[count % len(suffixes)]
            made.add(f"list/{form}-{aim}{suffix}", text.encode(), "playlist", NO_VIDEO)
            count += 1
            if count % 3 == 0:
                lead, magic = list(MAGIC.items())[count % len(MAGIC)]
                name = f"list/{form}-{aim}-{lead}{suffix}"
                made.add(name, magic + text.encode(), "playlist after magic", BROKEN)


def references(made):
    """Tracks whose samples are said to be in another file."""
    for name, target in targets(made).items():
        for suffix in (".mp4", ".mov"):
            change = lambda _, to=target: media.references(media.address(to))  # noqa: E731
            data = changed(plain(suffix), f"{media.MEDIA}/minf/dinf/dref", change)
            made.add(f"ref/url-{name}{suffix}", data, "reference", GOOD | BROKEN, scene())
    for name, target in (
        ("near", made.folder / "canary.bin"),
        ("far", made.outside / "canary.bin"),
    ):
        for suffix in (".mp4", ".mov"):
            change = lambda _, to=target: media.references(media.alias(to))  # noqa: E731
            data = changed(plain(suffix), f"{media.MEDIA}/minf/dinf/dref", change)
            made.add(f"ref/alias-{name}{suffix}", data, "reference", BROKEN)
    chapters = box(
        "rmra",
        box(
            "rmda",
            box("rdrf", bytes(4) + b"url " + u32(30) + str(made.outside / "canary.bin").encode()),
        ),
    )
    made.add("ref/movie.mov", plain(".mov") + box("moov", chapters), "reference", GOOD | BROKEN)
    only = box("ftyp", b"qt  " + bytes(4) + b"qt  ") + box("moov", chapters)
    made.add("ref/onlymovie.mov", only, "reference", BROKEN)
