"""How many requests a second does `rmlab serve` answer, and how fast, beside a loop around a transformers pipeline?

    python experiments/serving/run.py            under eight minutes; writes its tables into README.md beside it
    python experiments/serving/run.py --quick    a minute and a half; prints them

Both servers hold the same random model and answer the same requests from the same clients on the same machine, in turns
(ours, theirs, ours, theirs), one at a time. The median of the rounds counts. Loopback only, and everything it starts it
ends.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(ROOT), str(HERE)]

from load import Bodies, Load, long, measure, sharing, short  # noqa: E402

CLIENTS = (1, 16, 64, 256)
OVERLOAD = 512  # clients of a server whose queue holds 64


def write_model(folder: Path, width: int, layers: int) -> int:
    """Writes a random reward model in the form that both servers load. Returns its number of parameters."""
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    from rmlab.model.builtin import byte_tokenizer

    tokenizer = byte_tokenizer()
    config = AutoConfig.for_model(
        "llama",
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 32,
        num_key_value_heads=width // 32,
        max_position_embeddings=2048,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        num_labels=1,
    )
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return sum(p.numel() for p in model.parameters())


@contextmanager
def running(command: list[str], threads: int) -> Iterator[str]:
    """Runs a server for a while. Gives its address when it is ready."""
    with tempfile.NamedTemporaryFile("r", suffix=".log") as log, open(log.name, "w") as stream:
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen([sys.executable, *command], stderr=stream, env=environment)
        try:
            until = time.monotonic() + 180
            url = None
            while url is None or not _ready(url):
                found = re.search(r"listening on (http://\S+)", Path(log.name).read_text())
                url = found[1] if found else None
                if process.poll() is not None or time.monotonic() > until:
                    raise SystemExit(f"a server did not start:\n{Path(log.name).read_text()}")
                time.sleep(0.2)
            yield url
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/ready", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, TimeoutError):
        return False


def in_turns(urls: dict[str, str], bodies: Bodies, clients: int, seconds: float, rounds: int) -> dict[str, Load]:
    """Returns the median round of each server (by throughput)."""
    found: dict[str, list[Load]] = {name: [] for name in urls}
    for _ in range(rounds):
        for name, url in urls.items():
            found[name].append(measure(url, bodies, clients, seconds))
            print(f"  {name:8} {clients:4} clients {found[name][-1]}", file=sys.stderr, flush=True)
    return {name: _median(loads) for name, loads in found.items()}


def _median(loads: list[Load]) -> Load:
    fields = ("per_second", "p50", "p99", "refused")
    return Load(*(statistics.median(getattr(load, field) for load in loads) for field in fields))


HEAD = (
    "| clients | rmlab req/s | pipeline req/s | ratio | rmlab p50 / p99 ms | pipeline p50 / p99 ms |\n"
    "| ---: | ---: | ---: | ---: | ---: | ---: |\n"
)


def row(name: str, loads: dict[str, Load]) -> str:
    """Returns a line of the table."""
    ours, theirs = loads["rmlab"], loads["pipeline"]
    return (
        f"| {name} | {ours.per_second:.1f} | {theirs.per_second:.1f} | {ours.per_second / theirs.per_second:.2f} "
        f"| {ours.p50:.0f} / {ours.p99:.0f} | {theirs.p50:.0f} / {theirs.p99:.0f} |\n"
    )


def distinct_and_shared(urls: dict[str, str], seconds: float, rounds: int) -> tuple[str, float]:
    """Returns the report of the small model, and rmlab's highest throughput."""
    report, peak = HEAD, 0.0
    for clients in CLIENTS:
        loads = in_turns(urls, short, clients, seconds, rounds)
        peak = max(peak, loads["rmlab"].per_second)
        report += row(str(clients), loads)
    report += row("64, long texts", in_turns(urls, long, 64, seconds, rounds))
    report += row("64, shared prompts", in_turns(urls, sharing, 64, seconds, rounds))
    return report, peak


def overload(model: Path, threads: int, seconds: float, peak: float) -> str:
    """Returns the report of a server that many more clients want than it takes."""
    with running([*serve(model), "--max-queue", "64"], threads) as url:
        load = measure(url, short, OVERLOAD, seconds)
    return (
        "| answered a second | of the peak above | refused a second | p50 / p99 ms of the answered |\n"
        "| ---: | ---: | ---: | ---: |\n"
        f"| {load.per_second:.1f} | {100 * load.per_second / peak:.0f} % | {load.refused:.1f} "
        f"| {load.p50:.0f} / {load.p99:.0f} |\n"
    )


def serve(model: Path) -> list[str]:
    """Returns the command of the server that is measured."""
    return ["-m", "rmlab", "serve", "--model", str(model), "--port", "0", "--device", "cpu"]


@contextmanager
def both(model: Path, threads: int) -> Iterator[dict[str, str]]:
    """Runs both servers on a model. Gives their addresses."""
    theirs = [str(HERE / "baseline.py"), str(model), str(threads)]
    with running(serve(model), threads) as ours, running(theirs, threads) as pipeline:
        yield {"rmlab": ours, "pipeline": pipeline}


def main() -> None:
    """Measures, prints, and writes the tables into README.md unless `--quick`."""
    parser = argparse.ArgumentParser(description="Load test of rmlab serve.")
    parser.add_argument("--quick", action="store_true", help="one short round")
    parser.add_argument("--threads", type=int, default=1, help="of each model; the rest of the machine is the clients'")
    options = parser.parse_args()
    seconds, rounds, threads = (3.0, 1, options.threads) if options.quick else (6.0, 3, options.threads)
    with tempfile.TemporaryDirectory() as folder:
        small, larger = Path(folder) / "small", Path(folder) / "larger"
        sizes = write_model(small, 128, 4), write_model(larger, 256, 6)
        with both(small, threads) as urls:
            table, peak = distinct_and_shared(urls, seconds, rounds)
        report = f"A Llama of {sizes[0] / 1e6:.1f} M parameters (4 layers of 128), short texts unless said:\n\n{table}"
        report += f"\nOverload: {OVERLOAD} clients, `--max-queue 64`, who come back after `Retry-After`:\n\n"
        report += overload(small, threads, 3 * seconds, peak)
        with both(larger, threads) as urls:
            report += f"\nA Llama of {sizes[1] / 1e6:.1f} M parameters (6 layers of 256):\n\n{HEAD}"
            for name, bodies in (("64, short texts", short), ("64, shared prompts", sharing)):
                report += row(name, in_turns(urls, bodies, 64, seconds, rounds))
    report += f"\n{threads} thread(s) a model, {os.cpu_count()} cores, {rounds} round(s) of {seconds:.0f} s each.\n"
    print(report)
    if not options.quick:
        _keep(report)


def _keep(report: str) -> None:
    path = HERE / "README.md"
    before, _, rest = path.read_text().partition("<!-- results -->\n")
    _, _, after = rest.partition("<!-- end -->\n")
    path.write_text(f"{before}<!-- results -->\n{report}<!-- end -->\n{after}")


if __name__ == "__main__":
    main()
