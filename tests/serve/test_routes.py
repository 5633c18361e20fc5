"""Every route as its client calls it, answered by a real server, against scores computed without one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import httpx
import numpy as np
import pytest
import schemathesis
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rmlab import RewardModel
from tests.serve.models_for_tests import folder_of
from tests.serve.servers import Server

PROMPT, ANSWERS = "What is 2 + 2?\n\n", ["It is 4.", "It is five, I am\nquite sure.", "I do not know"]
CHAT = [{"role": "user", "content": "hi"}]
REPLY = {"role": "assistant", "content": "hello"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_of(tmp_path_factory.mktemp("models"), "bt")


@pytest.fixture(scope="module")
def model(folder: Path) -> RewardModel:
    return RewardModel.load(folder, device="cpu")


@pytest.fixture(scope="module")
def server(folder: Path, start: Callable[..., Server]) -> Server:
    return start(folder, "--name", "tiny", "--max-body", "200000", "--timeout", "120").wait_ready()


@pytest.fixture(scope="module")
def scores(model: RewardModel) -> list[float]:
    return model.score([PROMPT], [ANSWERS])[0]


def same(values: list[float]) -> Any:
    return pytest.approx(values, abs=1e-5, rel=2e-6)


def squashed(values: list[float]) -> Any:

    return pytest.approx(torch.tensor(values, dtype=torch.float64).sigmoid().tolist(), abs=1e-6)


def answer(server: Server, path: str, body: Any) -> Any:
    response = server.post(path, body)
    assert response.status_code == 200, response.text
    return response.json()


def test_openrlhf(server: Server, scores: list[float]) -> None:
    query = [PROMPT + text + "<eos>" for text in ANSWERS]
    for body in (
        {"query": query, "prompts": [PROMPT] * 3, "labels": ["4", None, ""]},
        {"query": query},
        {"query": [f"<pad><pad>{text}" for text in query], "prompts": [PROMPT] * 3},
    ):
        found = answer(server, "/get_reward", body)
        assert set(found) == {"rewards", "scores", "extra_logs"}
        assert found["rewards"] == found["scores"] == same(scores)
        assert found["extra_logs"]["z"] == same([(score - 0.5) / 2.0 for score in scores])  # as rmlab.json says
    assert answer(server, "/get_reward", {"query": []}) == {"rewards": [], "scores": [], "extra_logs": {}}
    refused = server.post("/get_reward", {"query": query, "prompts": [PROMPT]})
    assert refused.status_code == 422
    assert refused.json()["detail"] == "prompts has 1 texts, expected 3: one for each text of query"


def test_vllm_classify_as_verl_calls_it(server: Server, scores: list[float]) -> None:
    body = {"model": "some/name", "input": PROMPT + ANSWERS[0], "use_activation": False}
    found = answer(server, "/classify", body)
    assert set(found) == {"id", "object", "created", "model", "data", "usage"}
    assert (found["object"], found["model"], found["id"][:9]) == ("list", "tiny", "classify-")
    assert [found["data"][-1]["probs"][-1]] == same(scores[:1])
    assert found["data"][0] | {"probs": []} == {"index": 0, "label": "LABEL_0", "probs": [], "num_classes": 1}
    assert found["usage"]["prompt_tokens"] == found["usage"]["total_tokens"] > 3
    texts = [PROMPT + text + "<eos>" for text in ANSWERS]
    for extra in ({"add_special_tokens": False}, {"add_special_tokens": True}, {}):
        found = answer(server, "/classify", {"input": texts, "activation": False} | extra)
        assert [one["probs"][0] for one in found["data"]] == same(scores)
        assert [one["index"] for one in found["data"]] == [0, 1, 2]
    found = answer(server, "/classify", {"input": texts})  # the activation is on unless it is turned off
    assert [one["probs"][0] for one in found["data"]] == squashed(scores)


def test_vllm_pooling_and_messages(server: Server, model: RewardModel, scores: list[float]) -> None:
    expected = model.score([CHAT], [[REPLY]])
    for path, field in (("/pooling", "data"), ("/classify", "probs")):
        found = answer(server, path, {"messages": [*CHAT, REPLY], "use_activation": False})
        assert found["data"][0][field] == same(expected)
    parts = {"role": "assistant", "content": [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]}
    found = answer(server, "/pooling", {"messages": [*CHAT, parts], "use_activation": False})
    assert (found["id"][:5], found["data"][0]["object"], found["data"][0]["data"]) == (
        "pool-",
        "pooling",
        same(expected),
    )
    long = "x" * 400 + PROMPT + ANSWERS[0]
    found = answer(server, "/pooling", {"input": long, "truncate_prompt_tokens": -1, "use_activation": False})
    assert found["usage"]["total_tokens"] == 128


@pytest.mark.parametrize("names", [("queries", "documents"), ("text_1", "text_2"), ("data_1", "data_2")])
def test_vllm_score(names: tuple[str, str], server: Server, scores: list[float]) -> None:
    for queries in (PROMPT, [PROMPT], [PROMPT] * 3):
        found = answer(server, "/score", {names[0]: queries, names[1]: ANSWERS, "use_activation": False})
        assert [(one["index"], one["object"]) for one in found["data"]] == [(i, "score") for i in range(3)]
        assert [one["score"] for one in found["data"]] == same(scores)
    found = answer(server, "/score", {names[0]: PROMPT, names[1]: ANSWERS[0]})
    assert [one["score"] for one in found["data"]] == squashed(scores[:1])
    assert server.post("/score", {names[0]: [PROMPT] * 2, names[1]: ANSWERS}).status_code == 422


def test_text_embeddings_inference(server: Server, scores: list[float]) -> None:
    whole = PROMPT + ANSWERS[0]
    batch = answer(server, "/predict", {"inputs": [[whole], [PROMPT, ANSWERS[1]]], "raw_scores": True})
    assert [one["label"] for [one] in batch] == ["LABEL_0"] * 2
    assert [one["score"] for [one] in batch] == same(scores[:2])
    for inputs, expected in ((whole, scores[0]), ([whole], scores[0]), ([PROMPT, ANSWERS[2]], scores[2])):
        single = answer(server, "/predict", {"inputs": inputs, "raw_scores": False, "truncate": False})
        assert [one["score"] for one in single] == squashed([expected])
    ranks = answer(server, "/rerank", {"query": PROMPT, "texts": ANSWERS, "raw_scores": True, "return_text": True})
    order = sorted(range(3), key=lambda i: -scores[i])
    assert [(one["index"], one["text"]) for one in ranks] == [(i, ANSWERS[i]) for i in order]
    assert [one["score"] for one in ranks] == same([scores[i] for i in order])
    assert set(answer(server, "/rerank", {"query": PROMPT, "texts": ANSWERS})[0]) == {"index", "score"}
    long = {"inputs": ["x" * 300, "y"]}
    assert server.post("/predict", long).status_code == 422
    assert answer(server, "/predict", long | {"truncate": True})


def test_llama_factory(server: Server, scores: list[float]) -> None:
    body = {"model": "theirs", "messages": [PROMPT + text for text in ANSWERS]}
    found = answer(server, "/v1/score/evaluation", body)
    assert (found["object"], found["model"], set(found)) == (
        "score.evaluation",
        "theirs",
        {"id", "object", "model", "scores"},
    )
    assert found["scores"] == same(scores)
    assert answer(server, "/v1/score/evaluation", body | {"max_length": 10})["scores"] != same(scores)
    assert server.post("/v1/score/evaluation", {"model": "x", "messages": []}).status_code == 422


def test_own_protocol(server: Server, model: RewardModel, scores: list[float]) -> None:
    body = {"prompts": [PROMPT, CHAT, PROMPT], "completions": [ANSWERS, [[REPLY], "hello"], ANSWERS[0]]}
    found = answer(server, "/v1/rewards", body)
    assert (found["scale"], [len(row["completions"]) for row in found["data"]]) == ("log-odds", [3, 2, 1])
    first = found["data"][0]["completions"]
    assert [one["score"] for one in first] == same(scores)
    assert [one["rank"] for one in first] == [1 + sorted(scores, reverse=True).index(score) for score in scores]
    assert [one["z"] for one in first] == same([(score - 0.5) / 2.0 for score in scores])
    expected = model.score([CHAT], [[REPLY]])
    assert [one["score"] for one in found["data"][1]["completions"]] == same(expected * 2)
    assert [one["rank"] for one in found["data"][1]["completions"]] == [1, 1]


def test_half_a_surrogate_pair_is_repeated_as_a_question_mark(server: Server) -> None:
    headers = {"Content-Type": "application/json"}
    body = b'{"model": "\\ud800", "messages": ["a"]}'
    found = server.http.post("/v1/score/evaluation", content=body, headers=headers)
    assert (found.status_code, found.json().get("model")) == (200, "?"), found.text


def test_one_answer_of_nothing_is_scored_with_the_others(server: Server, scores: list[float]) -> None:
    query = [PROMPT + "<eos>", *(PROMPT + text + "<eos>" for text in ANSWERS)]
    found = answer(server, "/get_reward", {"query": query, "prompts": [PROMPT] * 4})
    alone = answer(server, "/get_reward", {"query": [PROMPT]})
    assert found["rewards"] == same(alone["rewards"] + scores)


def test_numbers_leave_whole(server: Server) -> None:
    """A score is an fp32 number; its decimal form names exactly that number."""

    text = server.post("/get_reward", {"query": [PROMPT + text for text in ANSWERS]}).text
    for score in json.loads(text)["rewards"]:
        assert float(np.float32(score)) == score


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/classify", {}, "expected either input or messages"),
        ("/classify", {"input": "x", "dimensions": 3}, "body.dimensions: Extra inputs are not permitted"),
        ("/pooling", {"input": "x", "encoding_format": "base64"}, "Input should be 'float'"),
        ("/get_reward", {"query": "x"}, "body.query: Input should be a valid list"),
        ("/v1/rewards", {"prompts": ["a"], "completions": []}, "0 completions for 1 prompts, expected as many"),
        ("/v1/rewards", {"prompts": ["a"], "completions": [[[REPLY]]]}, "prompt 0 (counted from 0) is text"),
        ("/v1/rewards", {"prompts": ["a"], "completions": [" "]}, "item 0 (counted from 0) cannot be scored: empty"),
    ],
)
def test_a_body_of_another_form_is_one_sentence(path: str, body: Any, message: str, server: Server) -> None:
    response = server.post(path, body)
    assert response.status_code == 422
    assert message in response.json()["detail"]


def test_what_is_not_json(server: Server) -> None:
    headers = {"Content-Type": "application/json"}
    for content in (b"{", b"\xff", b"[" * 100_000):
        response = server.http.post("/classify", content=content, headers=headers)
        assert response.status_code in (400, 422)
        assert isinstance(response.json()["detail"], str)
    half = server.http.post("/rerank", content=b'{"query": "a", "texts": ["\\ud800"], "\\ud800": 1}', headers=headers)
    assert half.status_code == 422


def test_state(server: Server) -> None:
    assert server.http.get("/health").json() == {"status": "ok"}
    assert server.http.get("/ready").json() == {"status": "ready"}
    listed = server.http.get("/v1/models").json()
    assert (listed["object"], listed["data"][0]["id"], listed["data"][0]["max_model_len"]) == ("list", "tiny", 128)
    assert server.http.get("/docs").status_code == 200
    before = server.metric("rmlab_requests_total"), server.metric("rmlab_scores_count")
    answer(server, "/score", {"queries": "a", "documents": ["b", "c"]})
    server.http.get("/no/such/route")
    assert server.post("/predict", {"inputs": "x" * 200_000}).status_code == 413
    assert server.metric("rmlab_scores_count") == before[1] + 2
    text = server.http.get("/metrics").text
    assert 'rmlab_requests_total{route="other",status="404"}' in text
    assert 'rmlab_requests_total{route="/predict",status="413"}' in text
    assert server.metric("rmlab_requests_total") > before[0]
    for name in ("rmlab_queue_requests", "rmlab_batch_tokens_count", "rmlab_request_seconds_count"):
        assert f"\n{name}" in text


def test_two_hundred_clients_get_the_scores_of_one(server: Server, model: RewardModel) -> None:
    """Random lengths over four protocols at once; some prompts are shared, so batches mix and share them."""
    random = Random(0)
    letters = "abc def\nghi "
    shared = ["".join(random.choices(letters, k=random.randrange(1, 60))) for _ in range(10)]

    def text() -> str:
        return "x" + "".join(random.choices(letters, k=random.randrange(1, 60)))

    asked = [(random.choice(shared), [text() for _ in range(random.randrange(1, 4))]) for _ in range(200)]
    bodies: list[Callable[[str, list[str]], tuple[str, Any, Callable[[Any], list[float]]]]] = [
        lambda p, cs: ("/get_reward", {"query": [p + c for c in cs], "prompts": [p] * len(cs)}, lambda r: r["rewards"]),
        lambda p, cs: (
            "/score",
            {"queries": p, "documents": cs, "use_activation": False},
            lambda r: [one["score"] for one in r["data"]],
        ),
        lambda p, cs: (
            "/v1/rewards",
            {"prompts": [p], "completions": [cs]},
            lambda r: [one["score"] for one in r["data"][0]["completions"]],
        ),
        lambda p, cs: (
            "/predict",
            {"inputs": [[p, c] for c in cs], "raw_scores": True},
            lambda r: [one["score"] for [one] in r],
        ),
    ]
    batches = server.metric("rmlab_batch_requests_count"), server.metric("rmlab_batch_requests_sum")

    async def client(number: int, http: httpx.AsyncClient) -> list[float]:
        path, body, read = bodies[number % 4](*asked[number])
        response = await http.post(path, json=body)
        assert response.status_code == 200, response.text
        return read(response.json())

    async def all_at_once() -> list[list[float]]:
        limits = httpx.Limits(max_connections=200)
        async with httpx.AsyncClient(base_url=server.url, timeout=150, limits=limits) as http:
            found = asyncio.gather(*(client(number, http) for number in range(200)))
            await asyncio.to_thread(server.wait_for, lambda: server.metric("rmlab_queue_requests") == 200)
            server.worker().resume()  # it was stopped, so that all of them are there at once
            return await found

    with server.stopped():
        found = asyncio.run(all_at_once())
    for (prompt, completions), given_scores in zip(asked, found, strict=True):
        assert given_scores == same([model.score([prompt], [c])[0] for c in completions])
    count = server.metric("rmlab_batch_requests_count") - batches[0]
    assert server.metric("rmlab_batch_requests_sum") - batches[1] == 200
    assert count < 20  # they were computed together


def test_messages_larger_than_the_pipe(server: Server) -> None:
    """Forty requests of 100 kB each at once, all of them answered; a pipe holds 200 kB."""

    async def all_at_once() -> list[int]:
        async with httpx.AsyncClient(base_url=server.url, timeout=150) as http:
            bodies = [{"input": "x" * 100_000, "truncate_prompt_tokens": 5} for _ in range(40)]
            return [r.status_code for r in await asyncio.gather(*(http.post("/pooling", json=b) for b in bodies))]

    assert asyncio.run(all_at_once()) == [200] * 40


def test_no_input_makes_it_fail(server: Server) -> None:
    """Bodies made from the OpenAPI page, right ones and wrong ones: never 5xx but 503, and errors are one sentence."""
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations()]
    assert {"/get_reward", "/classify", "/pooling", "/score", "/predict", "/rerank", "/v1/rewards"} <= {
        operation.path for operation in operations
    }
    for operation in operations:
        modes = [schemathesis.GenerationMode.POSITIVE]
        modes += [schemathesis.GenerationMode.NEGATIVE] if operation.method == "post" else []
        _fuzz(st.one_of([operation.as_strategy(generation_mode=mode) for mode in modes]), server.url)
    assert server.ready()


def _fuzz(cases: st.SearchStrategy[Any], url: str) -> None:
    @settings(max_examples=15, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
    @given(case=cases)
    def check(case: Any) -> None:
        response = case.call(base_url=url, timeout=60)
        assert response.status_code < 500 or response.status_code == 503, response.text
        if response.status_code >= 400:
            assert isinstance(response.json()["detail"], str)

    check()
