"""Branches of a digit classifier on MNIST: accuracy, FLOPs and latency of what is kept of them.

Trains one network for all branch configurations, and the full one alone for comparison, then shows
(a) configurations of them, (b) how pruning finds a smaller one within an accuracy budget, (c) the
ways to execute a block. Latencies are of our own host build, on one thread. The accuracies of (a)
are on the test images; pruning decides by images held out of the training ones. A run that was
killed goes on with --resume.
"""

from __future__ import annotations

import os

# Before torch and TVM start their pools. One thread also fixes the order of torch's sums.
os.environ["TVM_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import copy
import dataclasses
import sys
import time
from pathlib import Path
from typing import Any

import torch
from host_latency import Shape, build, measure
from models import write_json

from tvm_iovt.datasets.labelled_images import LabelledImages
from tvm_iovt.datasets.read import read_labelled_images
from tvm_iovt.errors import IovtError, UsageError
from tvm_iovt.nn.blocks import RepVGGBlock
from tvm_iovt.nn.branch_config import FUSION_MODES, BranchConfig, mode_config
from tvm_iovt.nn.branch_costs import block_input_shapes, branch_costs
from tvm_iovt.nn.branch_space import BranchSpace, branch_space
from tvm_iovt.nn.deploy import (
    apply_branch_config,
    branch_config,
    deploy,
    model_flops,
    multi_branch_blocks,
)
from tvm_iovt.nn.digit_network import digit_network
from tvm_iovt.nn.execution import execution_module
from tvm_iovt.nn.execution_table import EXECUTION_CONFIGS
from tvm_iovt.nn.importance import rank_branches
from tvm_iovt.nn.pruning import PREFERENCES, PruningOptions, PruningTrial, prune
from tvm_iovt.nn.recalibration import recalibrate
from tvm_iovt.nn.scales import ScaleOptions, train_scales
from tvm_iovt.nn.supernet import Sandwich
from tvm_iovt.nn.training import (
    CrossEntropy,
    Objective,
    TrainingOptions,
    TrainingProgress,
    evaluate,
    seeded_model,
    train,
)

INPUT: Shape = (1, 1, 28, 28)
HELD_OUT = 5000
SEED = 0
RANDOM_CONFIGS = 1
SAMPLED = 6
SCALES = ScaleOptions(epochs=2, seed=SEED)
PRUNING = tuple(PruningOptions(budget=0.005, prefer=prefer) for prefer in PREFERENCES)
A0_STAGE_2: Shape = (1, 96, 28, 28)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Splits:
    """Training images, those held out of them for decisions, and the test images."""

    train: LabelledImages
    held_out: LabelledImages
    test: LabelledImages


def read(folder: Path) -> Splits:
    whole = read_labelled_images(folder, "train")
    if len(whole) <= HELD_OUT:
        raise UsageError(f"{HELD_OUT} images are held out of training", seen=f"{len(whole)} images")
    return Splits(
        train=part(whole, slice(None, -HELD_OUT)),
        held_out=part(whole, slice(-HELD_OUT, None)),
        test=read_labelled_images(folder, "test"),
    )


def part(data: LabelledImages, chosen: slice) -> LabelledImages:
    return dataclasses.replace(data, images=data.images[chosen], labels=data.labels[chosen])


def space_of(model: Any) -> BranchSpace:
    """All configurations, except that blocks which halve the image keep their 3x3.

    A 1x1 or identity of stride 2 does not see three of four pixels. Networks without any other
    branch there would be hopeless, and cost the shared weights accuracy all the same.
    """
    blocks = multi_branch_blocks(model)
    return BranchSpace(
        choices=tuple(
            (name, tuple(s for s in sets if blocks[name].stride == (1, 1) or "3x3" in s))
            for name, sets in branch_space(model).choices
        )
    )


def trained(splits: Splits, epochs: int, checkpoint: Path, resume: bool, *, shared: bool) -> Any:
    """The digit network, trained for all branch configurations or for the full one alone."""
    model = seeded_model(digit_network, SEED).to(memory_format=torch.channels_last)
    space = space_of(model)
    objective: Objective = CrossEntropy()
    if shared:
        objective = Sandwich(
            space=space,
            smallest=space.smallest(branch_costs(model, INPUT)),
            random_configs=RANDOM_CONFIGS,
        )
    log(f"training for {f'{len(space)} configurations' if shared else 'the full one alone'}")
    began_s = time.perf_counter()
    train(
        model,
        splits.train,
        TrainingOptions(epochs=epochs, seed=SEED),
        objective=objective,
        progress=show,
        checkpoint=checkpoint,
        resume=resume,
    )
    log(f"trained for {time.perf_counter() - began_s:.0f} s")
    return model


def configurations(model: Any) -> dict[str, BranchConfig]:
    blocks = {name: tuple(block.branches) for name, block in multi_branch_blocks(model).items()}
    space = space_of(model)
    sampled = space.sample(SAMPLED, SEED)
    return {
        **{f"mode {mode}": mode_config(blocks, mode) for mode in FUSION_MODES},
        **{f"sample {number}": config for number, config in enumerate(sampled, 1)},
        "least FLOPs": space.smallest(branch_costs(model, INPUT)),
    }


def configured(model: Any, config: BranchConfig, splits: Splits) -> Any:
    """A copy with these branches and batch norms to match, not trained any further."""
    chosen = copy.deepcopy(model)
    apply_branch_config(chosen, config)
    recalibrate(chosen, splits.train, seed=SEED)
    return chosen


def compare(models: dict[str, Any], splits: Splits, work: Path, rounds: int) -> dict[str, Any]:
    """Accuracy on the test images, and FLOPs and latency with branches apart and folded."""
    bundles, rows = {}, {}
    for name, model in models.items():
        log(f"building {name}")
        apart, folded = copy.deepcopy(model), deploy(model)
        for block in multi_branch_blocks(apart).values():
            block.absorb_scales()
        stem = name.replace(", ", "_").replace(" ", "_")
        for form, made in (("apart", apart), ("folded", folded)):
            bundle = work / f"{stem}_{form}.iovt"
            bundles[f"{name}/{form}"] = build(made, INPUT, bundle, fuse="never")
        rows[name] = {
            "config": branch_config(model).to_json(),
            "kept": str(branch_config(model)),
            "accuracy": evaluate(model, splits.test),
            "apart_flops": model_flops(apart, INPUT),
            "folded_flops": model_flops(folded, INPUT),
        }
    times = measure(bundles, rounds=rounds, repeat=300)
    for name, row in rows.items():
        row |= {"apart": times[f"{name}/apart"], "folded": times[f"{name}/folded"]}
    return rows


def print_comparison(rows: dict[str, Any]) -> None:
    print(
        f"{'configuration':18} {'accuracy':>8} {'MFLOP apart':>12} {'folded':>7} "
        f"{'us apart':>9} {'folded':>7} {'gain':>5}  kept in each block"
    )
    for name, row in rows.items():
        apart_us, folded_us = row["apart"]["median_s"] * 1e6, row["folded"]["median_s"] * 1e6
        print(
            f"{name:18} {row['accuracy'] * 100:7.2f}% {row['apart_flops'] / 1e6:12.2f} "
            f"{row['folded_flops'] / 1e6:7.2f} {apart_us:9.1f} {folded_us:7.1f} "
            f"{apart_us / folded_us:5.2f}  {row['kept']}"
        )


def scaled(model: Any, splits: Splits) -> tuple[Any, float, list[dict[str, Any]]]:
    """The full network with trained branch factors, its accuracy before, and its ranking."""
    full = configured(model, branch_config(model), splits)
    reference = evaluate(full, splits.held_out)
    train_scales(
        full,
        splits.train,
        SCALES,
        progress=lambda epoch, loss: log(f"branch factors: epoch {epoch}, loss {loss:.4f}"),
    )
    ranking = rank_branches(full, INPUT)
    print(f"{'block':10} {'branch':10} {'factor':>7} {'MFLOP':>7} {'importance':>11}")
    for one in ranking:
        print(
            f"{one.block:10} {one.branch:10} {one.scale:7.3f} {one.flops / 1e6:7.3f} "
            f"{one.importance:11.2f}"
        )
    return full, reference, [{**dataclasses.asdict(r), "importance": r.importance} for r in ranking]


def pruned(
    full: Any, reference: float, options: PruningOptions, splits: Splits
) -> tuple[Any, dict[str, Any]]:
    """The network without the branches that an accuracy budget allows to drop."""
    print(
        f"\nreference {reference * 100:.2f}%, budget {options.budget * 100:g} points, "
        f"{options.prefer} preferred"
    )
    smaller, result = prune(
        full,
        options,
        input_shape=INPUT,
        accuracy=lambda trial: evaluate(trial, splits.held_out),
        adapt=lambda trial: recalibrate(trial, splits.train, seed=SEED),
        reference=reference,
        progress=print_trial,
    )
    print(f"{result.stopped}: {result.accuracy * 100:.2f}% with {result.config}")
    found = {
        "options": dataclasses.asdict(options),
        **dataclasses.asdict(result),
        "config": result.config.to_json(),
    }
    return smaller, found


def print_trial(trial: PruningTrial) -> None:
    candidate = trial.candidate
    print(
        f"round {trial.round}: without {candidate.block} {candidate.branch:9} "
        f"{trial.accuracy * 100:6.2f}%{'  accepted' if trial.accepted else ''}"
    )


def executions(block: Any, input_shape: Shape, work: Path, rounds: int) -> list[dict[str, Any]]:
    """FLOPs and latency of one block in each execution configuration that it can have."""
    block = copy.deepcopy(block)
    possible = [c for c in EXECUTION_CONFIGS if set(c.branches) <= set(block.branches)]
    bundles, rows = {}, []
    for config in possible:
        block.keep(config.branches)
        module = execution_module(block, config.gamma)
        bundle = work / f"block_{'x'.join(map(str, input_shape))}_{config.gamma}.iovt"
        bundles[str(config.gamma)] = build(module, input_shape, bundle, fuse="never")
        rows.append(
            {
                "gamma": config.gamma,
                "kept": list(config.branches),
                "operators": [list(group) for group in config.groups],
                "flops": model_flops(module, input_shape),
            }
        )
    times = measure(bundles, rounds=rounds, repeat=100)
    return [{**row, **times[str(row["gamma"])]} for row in rows]


def print_executions(rows: list[dict[str, Any]]) -> None:
    print(f"{'gamma':>5} {'kept':18} {'operators':22} {'MFLOP':>7} {'us':>8}  [least .. most]")
    for row in rows:
        config = EXECUTION_CONFIGS[row["gamma"]]
        median, least, most = (row[key] * 1e6 for key in ("median_s", "least_s", "most_s"))
        print(
            f"{row['gamma']:5} {'+'.join(row['kept']):18} {config!s:22} "
            f"{row['flops'] / 1e6:7.2f} {median:8.1f}  [{least:.1f} .. {most:.1f}]"
        )


def show(progress: TrainingProgress) -> None:
    if progress.step == progress.steps or progress.step % 100 == 0:
        log(
            f"epoch {progress.epoch}/{progress.epochs}, step {progress.step}/{progress.steps}: "
            f"loss {progress.loss:.4f}, {progress.images_per_s:.0f} images/s, "
            f"{progress.eta_s:.0f} s left"
        )


def log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def run(options: argparse.Namespace) -> dict[str, Any]:
    splits = read(options.data)
    options.work.mkdir(parents=True, exist_ok=True)
    model, alone = (
        trained(splits, options.epochs, options.work / f"{name}.pt", options.resume, shared=shared)
        for name, shared in (("supernet", True), ("alone", False))
    )
    configs = configurations(model)
    models = {name: configured(model, config, splits) for name, config in configs.items()}
    for mode in ("full", "none"):
        models[f"alone {mode}"] = configured(alone, configs[f"mode {mode}"], splits)
    print(
        "(a) branch configurations without retraining; `alone`: of the full network's own training"
    )
    rows = compare(models, splits, options.work, options.rounds)
    print_comparison(rows)

    print("\n(b) pruning by importance, accuracy on held-out images")
    full, reference, ranking = scaled(model, splits)
    before_after, histories = {"mode full": models["mode full"]}, []
    for pruning in PRUNING:
        smaller, found = pruned(full, reference, pruning, splits)
        before_after[f"pruned, {pruning.prefer}"] = smaller
        histories.append(found)
    print("\nbefore and after, accuracy on test images")
    after = compare(before_after, splits, options.work, options.rounds)
    print_comparison(after)

    name, block = list(multi_branch_blocks(model).items())[-1]
    (shape,) = block_input_shapes(model, INPUT)[name]
    large = seeded_model(lambda: RepVGGBlock(A0_STAGE_2[1], A0_STAGE_2[1]), SEED).eval()
    blocks = {f"digits {name}": (block, shape), "RepVGG-A0 stage 2": (large, A0_STAGE_2)}
    tables = {}
    for title, (which, input_shape) in blocks.items():
        log(f"building {title}")
        tables[title] = executions(which, input_shape, options.work, options.rounds)
        print(f"\n(c) execution of one block: {title}, input {input_shape}")
        print_executions(tables[title])
    return {
        "epochs": options.epochs,
        "seed": SEED,
        "torch": torch.__version__,
        "configurations": rows,
        "pruning": {
            "scales": dataclasses.asdict(SCALES),
            "ranking": ranking,
            "runs": histories,
            "comparison": after,
        },
        "executions": tables,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the MNIST files")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7, help="of each latency measurement")
    parser.add_argument(
        "--work", type=Path, default=Path("branches.work"), help="checkpoint, builds"
    )
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --work")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results here")
    options = parser.parse_args()
    try:
        results = run(options)
    except IovtError as error:
        log(str(error))
        return error.exit_code
    write_json(options.json, results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
