"""The server under load: throughput and latency with and without batching, wrong answers, malformed requests.

    python benchmarks/server_load.py [--seconds 60] [--rounds 5] [--clients 16] [--depth 20] [--json server_load.json]

ResNet on 32x32x3 images with random weights, exported and served by `python -m nrm_keras serve` in processes of their own; clients are
threads of further processes, each with a connection of its own, that ask again as soon as they are answered, one image at a time.
Every answer is compared with the Keras model's. The servers take turns, round by round, and figures are medians of the rounds:

    batching    the defaults
    single      --max-batch 1: a call for each request, one at a time
    two at once --max-batch 1 --parallel 2: a call for each request, two at a time

Then one round of --seconds against the first, and 500 malformed requests, each of which has to get a 4xx.
"""

import argparse
import contextlib
import json
import os
import pathlib
import statistics
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from server_clients import Figures, is_answered, load, malformed, start

SERVERS = {
    "batching": (),
    "single": ("--max-batch", "1"),
    "two at once": ("--max-batch", "1", "--parallel", "2"),
}
PROCESSES = 2  # that the clients' threads are spread over
SLOW = 20.0  # seconds after which the server gives a slow sender up


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--round-seconds", type=float, default=5)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--depth", type=int, default=20)
    parser.add_argument("--malformed", type=int, default=500)
    parser.add_argument("--json", metavar="PATH")
    arguments = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        export(folder / "model" / "1", folder / "asked.npz", arguments.depth)
        servers = {}
        for name, options in SERVERS.items():
            servers[name] = start(folder / "model", "--timeout", str(SLOW), *options)
            stack.callback(servers[name].stop)
        measured = measure(servers, folder / "asked.npz", arguments)
    if arguments.json:
        pathlib.Path(arguments.json).write_text(json.dumps(measured, indent=2) + "\n")
    return 0 if measured["errors"] == 0 and measured["malformed"]["other"] == 0 else 1


def export(version_dir, asked, depth: int, images: int = 64) -> None:
    """A SavedModel with a card, and images with the answers of the Keras model to them."""
    import keras
    import tensorflow as tf

    from nrm_keras.models.resnet import resnet
    from nrm_keras.serving.digest import MODEL_CARD, digest

    keras.utils.set_random_seed(0)
    inputs = keras.Input((32, 32, 3), name="image")
    x = resnet(keras.layers.Rescaling(1 / 255)(inputs), lambda name: keras.layers.BatchNormalization(name=name), depth)
    model = keras.Model(inputs, keras.layers.Dense(10, activation="softmax")(x))
    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint(
        "serving_default",
        lambda image: {"scores": model(tf.cast(image, tf.float32), training=False)},
        [tf.TensorSpec((None, 32, 32, 3), tf.uint8, name="image")],
    )
    archive.write_out(str(version_dir), verbose=False)
    (version_dir / MODEL_CARD).write_text(json.dumps({"digest": digest(version_dir)}))
    image = np.random.default_rng(0).integers(0, 256, (images, 32, 32, 3), np.uint8)
    np.savez(asked, image=image, scores=model.predict(image.astype(np.float32), verbose=0))


def measure(servers, asked, arguments) -> dict:
    """All rounds, printed as they end."""
    with ProcessPoolExecutor(PROCESSES, get_context("spawn")) as pool:
        list(pool.map(abs, range(PROCESSES)))  # started
        rounds = {(name, clients): [] for name in servers for clients in (1, arguments.clients)}
        for number in range(arguments.rounds + 1):
            for (name, clients), figures in rounds.items():
                measured = under_load(pool, servers[name], asked, clients, arguments.round_seconds)
                if number:  # the first warms up
                    figures.append(measured)
        results = {"rounds": {f"{name}, {clients} clients": summary(all_) for (name, clients), all_ in rounds.items()}}
        for name, figures in results["rounds"].items():
            print(f"{name:24}" + "  ".join(f"{key} {value:.4g}" for key, value in figures.items()), flush=True)
        many = {name: results["rounds"][f"{name}, {arguments.clients} clients"]["requests_per_s"] for name in servers}
        results["gain"] = many["batching"] / many["single"]
        results["gain_over_two_at_once"] = many["batching"] / many["two at once"]
        print(f"batching against single {results['gain']:.2f}x, two at once {results['gain_over_two_at_once']:.2f}x")
        long = under_load(pool, servers["batching"], asked, arguments.clients, arguments.seconds)
        results["long"] = summary([long])
        print(f"{arguments.seconds:g} s, {arguments.clients} clients: {results['long']}", flush=True)
    figures = [one for all_ in rounds.values() for one in all_] + [long]
    results["errors"] = sum(one.errors + one.wrong for one in figures)
    results["malformed"] = malformed(servers["batching"], arguments.malformed, SLOW)
    results["malformed"]["other"] += not is_answered(servers["batching"], asked)
    print(f"malformed: {results['malformed']}; errors and wrong answers: {results['errors']}")
    return results


def under_load(pool, server, asked, clients: int, seconds: float) -> Figures:
    """What clients saw who asked for so long, spread over the processes."""
    shares = [clients // PROCESSES + (number < clients % PROCESSES) for number in range(PROCESSES)]
    parts = [pool.submit(load, server.url, asked, share, seconds) for share in shares if share]
    return sum((part.result() for part in parts), Figures())


def summary(figures: list[Figures]) -> dict:
    """Medians over rounds; errors and wrong answers of all."""
    return {
        "requests_per_s": statistics.median(one.rate for one in figures),
        "p50_ms": statistics.median(one.quantile(0.5) for one in figures),
        "p99_ms": statistics.median(one.quantile(0.99) for one in figures),
        "errors": sum(one.errors for one in figures),
        "wrong": sum(one.wrong for one in figures),
    }


if __name__ == "__main__":
    sys.exit(main())
