"""The parts of `make gpu-check`, each run in a process of its own: `python gpu_parts.py PART SETTING FILE`.

A part appends each result to the file, as a line of JSON, as soon as it is known: if a part is stopped, its
results so far are kept. The setting is `full`, or `small` for a CPU.
"""

import functools
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from lib import commands
from lib.clean import photoset
from lib.core import files, params, progress, schema, steps
from lib.networks import backbones, backend, models
from lib.networks.backend import keras
from lib.train import batches, dataset, trainer, training

# The number of classes of each recipe.
RECIPES = {"butterfly": 75, "flowers": 5, "biology": 100, "imagenet100": 100}
# What makes the demo, and the steps of a recipe, small enough for a CPU.
SMALL_DEMO = (
    "source.photos_per_class=8 clean.embeddings=false model.backbone=SimpleCNN model.weights=null "
    "model.image_size=64 train.stages.head.epochs=1 train.stages.fine_tune.epochs=1 "
    "train.stages.fine_tune.trainable=all evaluate.min_top_1=0 gradcam.examples=1 gradcam.masks=null"
)
SMALL_SIDE, SMALL_BATCH = 32, 4
# The recipes' own backbones take minutes to compile on a CPU.
SMALL_BACKBONES = {"biology": "ResNet18", "imagenet100": "ResNet18"}
ROUNDS, STEPS, SMALL_ROUNDS, SMALL_STEPS = 5, 20, 1, 2
# The largest difference of a probability on another device or in another precision. A number in `bfloat16`
# has 3 bits less than in `float16`: its rounding is 8 times as coarse.
TOLERANCES = {"float32": 0.01, "mixed_float16": 0.01, "mixed_bfloat16": 0.08}
# The fraction of a GPU's memory, and the bytes of a process on a CPU, that the part `memory` may use.
FRACTION, BYTES = 0.03, 700_000_000
PACKAGES = (
    "keras",
    "tensorflow",
    "jax",
    "jaxlib",
    "jax-cuda12-plugin",
    "jax-cuda13-plugin",
    "torch",
    "numpy",
)


class Results:
    """The file of a part's results: `measure`, `value`, `text` and `ok` of each."""

    def __init__(self, path: Path):
        self.path = path

    def add(self, measure: str, value: Any, text: str = "", *, ok: bool = True) -> None:
        """Append a result; `text` is the value for the table, and a wrong value is not `ok`."""
        line = {"measure": measure, "value": value, "text": text or str(value), "ok": bool(ok)}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def machine(results: Results, small: bool) -> None:
    """Add the description of the machine, which chooses the setting of the other parts."""
    description = backend.prepare(seed=0)
    for name in PACKAGES:
        try:
            results.add(name, metadata.version(name))
        except metadata.PackageNotFoundError:
            continue
    results.add("Python", platform.python_version())
    results.add("CPU cores", os.cpu_count())
    results.add("GPUs", backend.GPUS, description)


def demo(results: Results, small: bool) -> None:
    """Run the demo as `make demo` does, and add its accuracy and the seconds of its steps."""
    folder = commands.run("demo", assignments=SMALL_DEMO if small else "", run_name="demo")
    seconds = {name: step["seconds"] for name, step in steps.provenance(folder)["steps"].items()}
    results.add("seconds of the steps", seconds, ", ".join(f"{value:.0f}" for value in seconds.values()))
    test, settings = files.read_json(folder / "metrics.json")["test"], demo_settings(small)
    text = f"{test['top_1']:.2f} of {test['n']} photos; expected: at least {settings.evaluate.min_top_1}"
    results.add("top-1 on test", test["top_1"], text, ok=test["top_1"] >= settings.evaluate.min_top_1)


def demo_settings(small: bool) -> schema.Params:
    return params.load("demo", {"run": "demo"} | params.parse_assignments(SMALL_DEMO if small else ""))


def recipe(name: str, results: Results, small: bool) -> None:
    """Add the photos per second of a recipe's last stage: of its input, its steps, and both together."""
    settings = recipe_settings(name, small)
    description = backend.prepare(settings.seed)
    size, rounds = settings.train.batch_size, SMALL_ROUNDS if small else ROUNDS
    count = SMALL_STEPS if small else STEPS
    photos = draw(settings, classes=RECIPES[name], count=size * (3 if small else 8))
    loop = build_trainer(settings, photos, results.path.parent)
    stage_name, stage = list(settings.train.stages.items())[-1]
    what = f"{settings.model.backbone}, stage {stage_name} ({stage.trainable}), "
    results.add(
        "setting", None, f"{what}{settings.model.image_size} pixels, batches of {size}; {description}"
    )
    make = functools.partial(
        batches.training, photos, settings, stage=stage, embeddings=None, batch_size=size, first_epoch=0
    )
    with make() as stream:
        rates = read(stream, size, rounds=rounds, count=STEPS)
        results.add("photos/s of the input", *rate(rates))
        constant = dataset.Batches(lambda number, batch=stream[0]: batch)
    loop._compile(stage)
    with constant:
        seconds, losses = fit(loop.compiled, constant, rounds=rounds, count=count)
    results.add("seconds of compilation and the first steps", seconds[0], f"{seconds[0]:.1f}")
    alone = [count * size / value for value in seconds[1:]]
    results.add("photos/s of the steps on a constant batch", *rate(alone))
    with make() as stream:
        seconds, more = fit(loop.compiled, stream, rounds=rounds, count=count)
    both = [count * size / value for value in seconds[1:]]
    value, text = rate(both)
    results.add("photos/s of both", value, f"{text}, {value / statistics.median(alone):.2f} of the steps'")
    finite = all(np.isfinite(losses + more))
    results.add(
        "loss on the constant batch, first and last",
        [losses[0], losses[-1]],
        f"{losses[0]:.3f}, {losses[-1]:.3f}; expected: numbers{'' if small else ' that fall'}",
        ok=finite and (small or losses[-1] < losses[0]),
    )
    peak, owner = peak_memory()
    results.add(f"peak memory of the {owner}", peak, f"{peak / 1e9:.2f} GB", ok=peak > 0)


def recipe_settings(name: str, small: bool) -> schema.Params:
    """Return the parameters of a recipe, with random weights; small photos and batches if `small`."""
    settings = params.load(name, {"model": {"weights": None}})
    if not small:
        return settings
    values: dict[str, Any] = {"model.image_size": SMALL_SIDE, "train.batch_size": SMALL_BATCH}
    values["model.backbone"] = SMALL_BACKBONES.get(name, settings.model.backbone)
    if settings.model.resize:
        values["model.resize"] = SMALL_SIDE * settings.model.resize // settings.model.image_size
    return params.changed(settings, values)


def draw(settings: schema.Params, *, classes: int, count: int) -> photoset.Photos:
    """Draw photos of smooth noise, in turn of each class, all of them in train."""
    side = settings.model.resize or settings.model.image_size
    coarse = np.random.default_rng(0).integers(0, 256, (count, 12, 12, 3), dtype=np.uint8)
    images = np.stack([cv2.resize(one, (side, side), interpolation=cv2.INTER_CUBIC) for one in coarse])
    names = [f"class {number:03}" for number in range(classes)]
    table = pd.DataFrame({"path": [f"{number}.png" for number in range(count)], "split": "train"})
    table["label"] = [names[number % classes] for number in range(count)]
    table["status"], table["sha1"] = "kept", table.path
    return photoset.Photos(table, images, settings.model.image_size, names)


def build_trainer(settings: schema.Params, photos: photoset.Photos, folder: Path) -> trainer.Trainer:
    return trainer.Trainer(
        settings,
        photos,
        folder=folder / f"{settings.name}_training",
        build=lambda: training.network(settings, photos),
        bar=progress.Bar(None, settings.name),
        watch=None,
    )


def read(stream: dataset.Batches, size: int, *, rounds: int, count: int) -> list[float]:
    """Return the photos per second at which batches are read, in some rounds after the first."""
    rates = []
    for number in range(rounds + 1):
        began = time.perf_counter()
        for batch in range(number * count, (number + 1) * count):
            stream[batch]
        rates.append(count * size / (time.perf_counter() - began))
    return rates[1:]


class Clock(keras.callbacks.Callback):
    """The seconds of each epoch, at whose end Keras waits for the device."""

    def on_train_begin(self, logs: dict | None = None) -> None:
        self.seconds: list[float] = []

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self.began = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self.seconds.append(time.perf_counter() - self.began)


def fit(
    network: keras.Model, stream: dataset.Batches, *, rounds: int, count: int
) -> tuple[list[float], list[float]]:
    """Train for a first round and some more, and return the seconds and the loss of each."""
    clock = Clock()
    with backend.distribution():
        history = network.fit(
            stream, epochs=rounds + 1, steps_per_epoch=count, shuffle=False, verbose=0, callbacks=[clock]
        )
    return clock.seconds, [float(loss) for loss in history.history["loss"]]


def rate(rates: list[float]) -> tuple[float, str]:
    """Return the median of some rates, and a text with the least and the most."""
    median = statistics.median(rates)
    return round(median, 1), f"{median:,.0f} ({min(rates):,.0f} to {max(rates):,.0f})"


def peak_memory() -> tuple[int, str]:
    """Return the peak memory of the first GPU, or of this process, in bytes; and which of them it is."""
    if not backend.GPUS:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, "process"
    if backend.ENGINE == "jax":
        return backend.native.devices()[0].memory_stats()["peak_bytes_in_use"], "GPU"
    if backend.ENGINE == "tensorflow":
        return backend.native.config.experimental.get_memory_info("GPU:0")["peak"], "GPU"
    return backend.native.cuda.max_memory_allocated(), "GPU"


def agreement(results: Results, small: bool) -> None:
    """Add the largest differences between the probabilities of the demo's model in several precisions.

    They are compared with those in `float32` on the CPU.
    """
    settings = demo_settings(small)
    run = steps.Run(settings, steps.EVALUATE)
    if not run.path("model.keras").is_file():
        results.add("GPU against CPU", None, "not run: the demo has trained no model")
        return
    backend.prepare(settings.seed)
    if not backend.GPUS:
        # What a GPU would compute in.
        keras.mixed_precision.set_global_policy("mixed_bfloat16")
    policy, device = keras.mixed_precision.global_policy().name, "the GPU" if backend.GPUS else "the CPU"
    photos, published = photoset.load(run), models.read(run.need("model.keras"))
    images = held_out(photos)
    # The model as it computed in the training; the published one computes in `float32`.
    mixed = training.network(settings, photos)
    mixed.set_weights(published.get_weights())
    computed = {policy: backend.outputs(mixed, images)}
    if backend.GPUS:
        computed["float32"] = backend.outputs(published, images)
        expected = on_the_cpu(results.path.parent, small)
    else:
        results.add("GPU against CPU", None, "not run: there is no GPU")
        expected = backend.outputs(published, images)
    for name, probabilities in computed.items():
        difference = float(np.abs(probabilities - expected).max())
        same = float(np.mean(probabilities.argmax(axis=1) == expected.argmax(axis=1)))
        text = f"{difference:.4f}; expected: at most {TOLERANCES[name]}"
        measure = f"largest difference of a probability, {name} on {device} against float32 on the CPU"
        results.add(measure, difference, text, ok=difference <= TOLERANCES[name])
        results.add(f"equal predictions of {len(images)} photos, the same", same, f"{same:.0%}")


def held_out(photos: photoset.Photos) -> np.ndarray:
    return np.asarray(photos.images[np.concatenate([photos.rows("val"), photos.rows("test")])])


def on_the_cpu(folder: Path, small: bool) -> np.ndarray:
    """Return the probabilities of another process, from which the GPU is hidden."""
    path = folder / "reference.jsonl"
    hidden = {"CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, __file__, "reference", "small" if small else "full", str(path)]
    subprocess.run(command, check=True, env=os.environ | hidden)
    return np.load(path.with_suffix(".npy"))


def reference(results: Results, small: bool) -> None:
    """Write the probabilities of the demo's model that this process computes."""
    if backend.GPUS:
        raise RuntimeError("expected no GPU in this process")
    run = steps.Run(demo_settings(small), steps.EVALUATE)
    probabilities = backend.outputs(models.read(run.need("model.keras")), held_out(photoset.load(run)))
    np.save(results.path.with_suffix(".npy"), probabilities)


def memory(results: Results, small: bool) -> None:
    """Let memory run out in a training, and add the batch size with which it continued."""
    if not backend.GPUS and backend.ENGINE != "jax":
        results.add("out of memory", None, f"not run: on a CPU it ends a process of {backend.ENGINE}")
        return
    backbones.REGISTRY["Wide"] = backbones.Backbone(
        functools.partial(wide, 64 if small else 256), backbones.SIGNED
    )
    asked = 64 if small else 512
    limit_memory(results.path.parent)
    loop = wide_trainer(asked, results.path.parent)
    loop.train(None)
    optimizer = loop.compiled.optimizer
    steps_of_one = getattr(optimizer, "inner_optimizer", optimizer).gradient_accumulation_steps or 1
    held, (row,) = loop.state.batch_size, loop.state.history
    results.add(
        "batch size after memory ran out",
        held,
        f"{held} instead of {asked}, gradients of {steps_of_one} batches accumulated, loss {row[2]:.3f}; "
        "expected: smaller, and as many photos in a step",
        ok=held < asked and held * steps_of_one == asked and bool(np.isfinite(row[2])),
    )


def wide(filters: int, weights: None, input_shape: tuple[int, ...]) -> keras.Model:
    """Build a backbone that needs much memory for its few weights."""
    inputs = keras.Input(input_shape)
    x = keras.layers.Conv2D(filters, 3, padding="same")(inputs)
    return keras.Model(inputs, keras.layers.Conv2D(filters, 3, padding="same")(x))


def wide_trainer(batch_size: int, folder: Path) -> trainer.Trainer:
    """Return a trainer of one epoch of one step."""
    settings = schema.Params.model_validate(
        {
            "name": f"wide_{batch_size}",
            "source": {"kind": "sample"},
            "model": {"backbone": "Wide", "weights": None, "image_size": 96},
            "train": {
                "batch_size": batch_size,
                "stages": {"all": {"trainable": "all", "epochs": 1, "learning_rate": 1e-4, "augment": False}},
            },
        }
    )
    photos = draw(settings, classes=2, count=batch_size + 4)
    photos.table.loc[batch_size:, "split"] = "val"
    return build_trainer(settings, photos, folder)


def limit_memory(folder: Path) -> None:
    """Limit the memory of the GPU, which JAX reads from its environment, or of this process."""
    if not backend.GPUS:
        # The libraries take their own memory before the limit.
        wide_trainer(4, folder).train(None)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + BYTES,) * 2)
    elif backend.ENGINE == "tensorflow":
        config = backend.native.config
        limit = [config.LogicalDeviceConfiguration(memory_limit=2048)]
        config.set_logical_device_configuration(config.list_physical_devices("GPU")[0], limit)
    elif backend.ENGINE == "torch":
        backend.native.cuda.set_per_process_memory_fraction(FRACTION)


PARTS: dict[str, Callable[[Results, bool], None]] = {
    "machine": machine,
    "demo": demo,
    **{name: functools.partial(recipe, name) for name in RECIPES},
    "agreement": agreement,
    "memory": memory,
    "reference": reference,
}


if __name__ == "__main__":
    part, setting, path = sys.argv[1:]
    PARTS[part](Results(Path(path)), setting == "small")
