"""A server by its own description: what it allows, what it does not, and what follows on what."""

from collections import Counter
from contextlib import suppress

import hypothesis
import pytest
import requests
from hypothesis.stateful import run_state_machine_as_test
from serve.house import hold, let_go


class Described:
    """The server by its own description, with the links between its routes."""

    def __init__(self, server):
        self.schemathesis = pytest.importorskip("schemathesis")
        self.server = server
        self.headers = {"Authorization": f"Bearer {server.key}"}
        raw, links = server.get("/openapi.json"), {}
        for path, methods in raw["paths"].items():
            for said in methods.values():
                if path.startswith("/v1/videos/{video_id}"):
                    named = {"video_id": "$response.body#/id"}
                    links[said["operationId"]] = {
                        "operationId": said["operationId"], "parameters": named,
                    }  # fmt: skip
        raw["paths"]["/v1/videos"]["post"]["responses"]["200"]["links"] = links
        self.schema = self.schemathesis.openapi.from_dict(raw)
        self.schema.config.update(base_url=server.url)
        self.counted, self.linked = Counter(), Counter()

    def settings(self, examples, **more):
        return hypothesis.settings(
            max_examples=examples, database=None, deadline=None, derandomize=True, **more,
            suppress_health_check=list(hypothesis.HealthCheck), phases=[hypothesis.Phase.generate],
        )  # fmt: skip

    def cases(self, examples):
        """So many of each route, as the description says and as it does not."""
        with requests.Session() as session:
            for found in self.schema.get_all_operations():
                for mode in self.schemathesis.GenerationMode:
                    cases = found.ok().as_strategy(generation_mode=mode)

                    @self.settings(examples)
                    @hypothesis.given(case=cases)
                    def each(case):
                        answer = case.call(session=session, headers=self.headers)
                        self.counted[answer.status_code] += 1
                        assert answer.status_code < 500, (case, answer.text)

                    with suppress(hypothesis.errors.Unsatisfiable):  # nothing there can be wrong
                        each()

    def chains(self, examples):
        """Requests that follow each other: a video that is made, and what is done with it."""
        headers, linked = self.headers, self.linked
        videos = self.schema.include(path_regex="^/v1/videos").exclude(path_regex="edit|char|exten")
        videos = videos.exclude(
            path="/v1/videos", method="GET"
        )  # else no chain begins with a video

        def emptied():
            """Each chain begins with no video, so that it goes the same way every time."""
            for video in self.server.get("/v1/videos?limit=100")["data"]:
                self.server.call("DELETE", f"/v1/videos/{video['id']}")

        with requests.Session() as session:

            class Machine(videos.as_state_machine()):
                def setup(self):
                    emptied()

                def before_call(self, case):
                    if (case.method, case.path) == ("POST", "/v1/videos"):
                        case.media_type, case.body = "application/json", {"prompt": "x"}

                def get_call_kwargs(self, case):
                    return {"headers": headers, "session": session}

                def validate_response(self, response, case, additional_checks=None, **more):
                    linked[case.method, case.path, response.status_code] += 1
                    assert response.status_code < 500, (case, response.text)

            worker = hold(self.server)
            try:
                how = self.settings(examples, stateful_step_count=8)
                run_state_machine_as_test(Machine, settings=how)
            finally:
                let_go(worker)
