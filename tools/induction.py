"""Train a tiny model to repeat patterns until it has an induction head, and draw what its heads do.

    python tools/induction.py         docs/pictures/induction.svg, in a few seconds

    random patterns, each repeated to the end of its row --train--> two layers of two heads --study--> picture

Positions are rotary and every row has a period of its own, so that counting back a fixed distance does not help: what
comes next is found only by looking for the token itself (docs/inside.md).
"""

import argparse
from html import escape
from pathlib import Path

import numpy as np

from lm_core.backend import Scorer, Trainer, load_backend
from lm_core.config import AdamWConfig, ModelConfig, StepConfig
from lm_core.data.batches import Batch
from lm_core.model.init import initial_arrays
from lm_core.page import COLORS, pixels
from lm_core.rng import generator
from lm_pipeline.inside.map import shades
from lm_pipeline.inside.study import Study, make_study
from lm_pipeline.inside.windows import windows

PICTURE = Path(__file__).resolve().parent.parent / "docs" / "pictures" / "induction.svg"
MODEL = ModelConfig(
    vocab_size=16, seq_len=32, d_model=32, n_layers=2, n_heads=2, d_ff=32, norm="rms", positions="rope", bias=False
)
ROWS, STEPS, PEAK_LR, WARMUP = 32, 300, 1e-2, 20
SHORTEST = 3
"""Tokens of a pattern, at least; at most, it fits a row twice."""
SIDE, GAP = 210, 24
"""Pixels of a map, and around it."""


def patterns(step: int, seed: int, rows: int = ROWS) -> Batch:
    """Rows that repeat a pattern of different random tokens each."""
    draw = generator(seed, "patterns", step)
    periods = draw.integers(SHORTEST, MODEL.seq_len // 2 + 1, size=rows)
    whole = [np.resize(draw.permutation(MODEL.vocab_size)[:period], MODEL.seq_len + 1) for period in periods]
    ids = np.array(whole, dtype=np.int32)
    return Batch(ids[:, :-1].copy(), ids[:, 1:].copy())


def trained(backend: str = "torch", steps: int = STEPS, seed: int = 0) -> Trainer:
    """A trainer after so many steps."""
    step = StepConfig(device="cpu")
    trainer = load_backend(backend).build(MODEL, AdamWConfig(), step, initial_arrays(MODEL, seed), seed)
    for number in range(1, steps + 1):
        trainer.step(patterns(number, seed), PEAK_LR * min(1.0, number / WARMUP))
    return trainer


def study_of(scorer: Scorer, seed: int = 0) -> Study:
    """The study of one, on patterns that it has not seen."""
    batches = windows(patterns(0, seed, 8).inputs.ravel(), MODEL.seq_len, 224)
    return make_study(scorer, MODEL, scorer.weights(), batches, batches, lambda ids: "".join(chr(97 + i) for i in ids))


def picture(study: Study) -> str:
    """The maps of the four heads on random tokens that repeat, as SVG, under their scores."""
    layers, heads = study.induction.shape
    width, height = heads * (SIDE + GAP) + GAP, layers * (SIDE + 46 + GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="system-ui, sans-serif"'
        ' fill="#1c2430">',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
    ]
    for layer, head in np.ndindex(layers, heads):
        x, y = GAP + head * (SIDE + GAP), 46 + layer * (SIDE + 46 + GAP)
        scores = f"induction {study.induction[layer, head]:.2f}, costs {study.ablation[layer, head]:.2f} nats"
        image = pixels(shades(study.repeat_maps[layer, head]))
        parts += [
            f'<text x="{x}" y="{y - 24}" font-size="15" font-weight="600">Head {layer}.{head}</text>',
            f'<text x="{x}" y="{y - 7}" font-size="12" fill="#626b78">{escape(scores)}</text>',
            f'<image x="{x}" y="{y}" width="{SIDE}" height="{SIDE}" style="image-rendering: pixelated"'
            f' href="{image}"/>',
            f'<rect x="{x}" y="{y}" width="{SIDE}" height="{SIDE}" fill="none" stroke="{COLORS[4]}"/>',
        ]
    return "\n".join([*parts, "</svg>\n"])


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description="Train a tiny model to repeat patterns, and draw what its heads do.")
    parser.add_argument("--backend", default="torch", help="torch or mlx")
    args = parser.parse_args()
    PICTURE.write_text(picture(study_of(trained(args.backend))), encoding="utf-8")


if __name__ == "__main__":
    main()
