"""The same curation on a Ray cluster of two nodes, of which one dies on the way."""

import os
import signal
from collections import deque
from contextlib import contextmanager
from pathlib import Path

import pytest
from curate.runs import fingerprint, run

from vdm_jax.core.refusal import Refusal
from vdm_jax.curate.distributed import OnRay
from vdm_jax.curate.stage import Resources

os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # nodes find each other at 127.0.0.1
pytest.importorskip("ray")
from ray.cluster_utils import Cluster

pytestmark = [pytest.mark.long, pytest.mark.filterwarnings("default")]
NODE = {
    "node_ip_address": "127.0.0.1",
    "num_cpus": 1,
    "memory": 6 * 2**30,
    "object_store_memory": 100 * 2**20,
}


@contextmanager
def cluster():
    """Two nodes of one core each."""
    made = Cluster(initialize_head=True, head_node_args=NODE | {"include_dashboard": False})
    try:
        yield made, made.add_node(**NODE)
    finally:
        import ray

        ray.shutdown()
        made.shutdown()


def workers():
    """Processes in which Ray is doing a task."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            title = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if title.startswith(b"ray::_done"):
            yield int(folder.name)


def test_a_cluster_leaves_the_same_though_a_worker_and_a_node_die(
    corpus, config, curated, tmp_path, monkeypatch
):
    once = OnRay.run
    with cluster() as (made, node):
        deaths = []

        def hurt(self, queue):
            for number, done in enumerate(once(self, queue)):
                yield done
                if number == 3:
                    deaths.append(next(workers()))
                    os.kill(deaths[0], signal.SIGKILL)
                if number == 8:
                    made.remove_node(node, allow_graceful=False)
                    deaths.append(node)

        monkeypatch.setattr(OnRay, "run", hurt)
        run(corpus.folder, tmp_path / "out", config, "--executor", "ray", "--address", made.address)
    assert len(deaths) == 2 and fingerprint(tmp_path / "out") == fingerprint(curated)


def test_no_cluster_is_a_refusal():
    executor = OnRay(address="127.0.0.1:9", resources=Resources())
    with pytest.raises(Refusal, match="no Ray cluster there"):
        next(executor.run(deque()))
