"""Time and peak memory of merging a sharded checkpoint: ours against verl's own merger.

The checkpoint is synthetic: a Qwen2.5-VL with random float32 weights in four FSDP2 shards, as `segzero train` and
verl save them, 2 GB in all. The mergers take turns, each in a process of its own, whose peak is the largest memory that
it ever held (VmHWM), mapped files included. Both outputs must have the same names and the same bits.

    OMP_NUM_THREADS=1 python -m benchmarks.merge [--repeats 3] [--gigabytes 2.0] [--folder DIR]
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
CHILD = [sys.executable, "-m", "benchmarks.merge", "--child"]  # this program as a process of its own, in ROOT
RANKS = 4
HIDDEN, FEEDFORWARD, VOCABULARY = 1024, 4096, 32_000  # 134 MB for the largest tensor, the embeddings
Measured = dict[str, float]  # "imports", "merge" and "whole" in seconds, "peak" in bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--folder", type=Path, help="folder of the checkpoints (default: a temporary one)")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child and args.child[0] == "make":
        make_checkpoint(Path(args.child[1]), float(args.child[2]) * 1e9)
    elif args.child:
        run_child(*args.child)
    else:
        compare_mergers(args)


def compare_mergers(args: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name).absolute()
        actor = folder / "global_step_1" / "actor"
        subprocess.run([*CHILD, "make", actor, str(args.gigabytes)], check=True, cwd=ROOT)
        shards = sum(file.stat().st_size for file in actor.glob("*.pt"))
        print(f"{shards / 1e9:.2f} GB in {RANKS} shards, float32 to bfloat16, {args.repeats} repeats")
        measured: dict[str, list[Measured]] = {"ours": [], "verl": []}
        for _ in range(args.repeats):
            for who, runs in measured.items():
                out = folder / who
                shutil.rmtree(out, ignore_errors=True)
                runs.append(measure(who, actor, out))
        report(measured)
        print(f"{compare(folder / 'ours', folder / 'verl')} tensors, all equal")


def measure(who: str, actor: Path, out: Path) -> Measured:
    begin = time.perf_counter()
    done = subprocess.run([*CHILD, who, actor, out], capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode:
        sys.exit(f"the merge by {who} failed:\n{done.stderr[-3000:]}")
    return {**json.loads(done.stdout.splitlines()[-1]), "whole": time.perf_counter() - begin}


def report(measured: dict[str, list[Measured]]) -> None:
    print(f"{'':8}{'whole process, s':>28}{'of it merging, s':>28}{'peak memory, MiB':>28}")
    columns = ("whole", "merge", "peak")
    for who, runs in measured.items():
        shown = [spread([run[column] / (2**20 if column == "peak" else 1) for run in runs]) for column in columns]
        print(f"{who:8}" + "".join(f"{text:>28}" for text in shown))
    ratios = [
        spread([b[column] / a[column] for a, b in zip(measured["ours"], measured["verl"], strict=True)])
        for column in columns
    ]
    print(f"{'ratio':8}" + "".join(f"{text:>28}" for text in ratios))
    largest = HIDDEN * VOCABULARY * 4
    promise, peak = 3 * largest + 2**30, max(run["peak"] for run in measured["ours"])
    print(f"promised: three times the largest tensor and 1 GiB, {promise / 2**20:.0f} MiB; ", end="")
    print("kept" if peak < promise else f"BROKEN, {peak / 2**20:.0f} MiB")


def spread(values: list[float]) -> str:
    digits = 0 if max(values) > 100 else 1
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def compare(ours: Path, theirs: Path) -> int:
    """Count the tensors, which must have the same names, types and bits in both."""
    import torch

    left, right = read(ours), read(theirs)
    assert left.keys() == right.keys(), sorted(left.keys() ^ right.keys())
    for name, file in left.items():
        a, b = file.get_tensor(name), right[name].get_tensor(name)
        assert a.dtype == b.dtype and torch.equal(a, b), name
    return len(left)


def read(folder: Path) -> dict:
    """Open the file of each tensor, by the tensor's name."""
    from safetensors import safe_open

    files = [safe_open(path, "pt") for path in folder.glob("*.safetensors")]
    return {name: file for file in files for name in file.keys()}  # noqa: SIM118


# Functions that run in a process of their own


def run_child(who: str, source: str, argument: str) -> None:
    begin = time.perf_counter()
    if who == "ours":
        import accelerate  # noqa: F401  # imports of `merge`, so that they are not measured with it
        from transformers import AutoModelForImageTextToText  # noqa: F401

        from segzero.training.merge import merge

        imported = time.perf_counter()
        merge(source, argument)
    else:
        # On a machine without CUDA verl needs a platform, which our plugin provides for the CPU.
        os.environ |= {"VERL_PLATFORM": "cpu", "VERL_USE_EXTERNAL_MODULES": "segzero.training.verl_glue.plugin"}
        from verl.model_merger.__main__ import main as merge_by_verl

        imported = time.perf_counter()
        sys.argv = ["merge", "merge", "--backend", "fsdp", "--local_dir", source, "--target_dir", argument]
        merge_by_verl()
    seconds = {"imports": imported - begin, "merge": time.perf_counter() - imported}
    status = Path("/proc/self/status").read_text()
    [peak] = re.findall(r"VmHWM:\s+(\d+) kB", status)
    print(json.dumps({**seconds, "peak": int(peak) * 1024}))


def make_checkpoint(actor: Path, size: float) -> None:
    """Save shards of about `size` bytes: as many layers as that takes, with the shipped policy's processor."""
    import torch
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

    from segzero import shipped
    from tests.helpers.shards import save_shards

    config = AutoConfig.from_pretrained(shipped.policy_path(), trust_remote_code=False)
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = False
    config.vision_config.out_hidden_size = HIDDEN
    text = config.text_config
    text.hidden_size, text.intermediate_size, text.vocab_size = HIDDEN, FEEDFORWARD, VOCABULARY
    text.num_attention_heads = text.num_key_value_heads = HIDDEN // 64
    layer = 4 * (4 * HIDDEN**2 + 3 * HIDDEN * FEEDFORWARD)
    text.num_hidden_layers = round((size - 8 * HIDDEN * VOCABULARY) / layer)
    text.layer_types = ["full_attention"] * text.num_hidden_layers
    with init_empty_weights():
        model = AutoModelForImageTextToText.from_config(config, trust_remote_code=False)
    torch.manual_seed(0)
    state = {name: torch.randn(tensor.shape) for name, tensor in model.state_dict().items()}
    save_shards(
        model, AutoProcessor.from_pretrained(shipped.policy_path(), trust_remote_code=False), actor.parent, RANKS, state
    )


if __name__ == "__main__":
    main()
