"""A small exported model, and real server processes that serve it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request

from nrm_keras.serving.digest import MODEL_CARD, digest
from tests.programs import ROOT

START, STOP = 120, 60  # seconds, on a busy machine


def write_card(version_dir, **more):
    """A model card whose digest is that of the files."""
    (version_dir / MODEL_CARD).write_text(json.dumps({"version": 1, "digest": digest(version_dir), **more}))


def network():
    """A convolutional network of random weights that takes images of any size and gives three logits."""
    import keras

    keras.utils.set_random_seed(0)
    image = keras.Input((None, None, 3), name="image")
    x = keras.layers.Rescaling(1 / 255)(image)
    x = keras.layers.Conv2D(4, 3, padding="same", activation="relu")(x)
    x = keras.layers.GlobalAveragePooling2D(name="features")(x)
    return keras.Model(image, keras.layers.Dense(3, kernel_initializer="random_normal")(x))


def save_network(model, version_dir):
    """Exports it with the signatures of an export of ours, and some more for the server's sake."""
    import keras
    import tensorflow as tf

    names = tf.constant(["cat", "dog", "owl"])
    inner = keras.Model(model.input, model.get_layer("features").output)
    image = tf.TensorSpec((None, None, None, 3), tf.uint8, name="image")
    numbers = tf.TensorSpec((None,), tf.float32, name="inputs")

    def classify(image):
        logits = model(tf.cast(image, tf.float32), training=False)
        return {"scores": tf.nn.softmax(logits), "labels": tf.gather(names, tf.argmax(logits, -1))}

    def monitor(image):
        mean = tf.reduce_mean(tf.cast(image, tf.float32))
        distance = tf.stack([mean, mean / 2])
        return {"score": mean, "p_value": tf.exp(-mean), "distance": distance, "layers": tf.constant(["a", "b"])}

    def slow(inputs):
        eye = tf.eye(400)
        powers = tf.while_loop(lambda i, _: i < 150, lambda i, m: (i + 1, tf.matmul(m, eye)), (0, eye))[1]
        return {"values": inputs * powers[0, 0]}

    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint("serving_default", classify, [image])
    archive.add_endpoint("monitor", monitor, [image])
    archive.add_endpoint("features", lambda image: {"features": inner(tf.cast(image, tf.float32))}, [image])
    archive.add_endpoint("slow", slow, [numbers])
    archive.add_endpoint("logarithm", lambda inputs: {"values": tf.math.log(inputs)}, [numbers])
    archive.add_endpoint(
        "text",
        lambda text: {"upper": tf.strings.upper(text), "raw_bytes": text, "raw": text},
        [tf.TensorSpec((None,), tf.string, name="text")],
    )
    archive.add_endpoint(
        "domain",
        lambda inputs, domain: {"values": inputs + tf.gather([[10.0], [20.0]], domain)},
        [tf.TensorSpec((None, 2), tf.float32, name="inputs"), tf.TensorSpec((None,), tf.int32, name="domain")],
    )
    archive.write_out(str(version_dir), verbose=False)
    write_card(version_dir, example_request={"signature_name": "logarithm", "instances": [1.0]})


class Server:
    """A server process; `url` is the model's, `lines` what it printed."""

    def __init__(self, directory, *arguments):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "nrm_keras", "serve", str(directory), "--port", "0", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.lines, self.errors = [], []
        self._ready = threading.Event()
        self._readers = [
            threading.Thread(target=self._read, args=what, daemon=True)
            for what in ((self.process.stdout, self.lines), (self.process.stderr, self.errors))
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, stream, lines):
        for line in stream:
            lines.append(line.rstrip())
            if "Ctrl-C" in line:
                self._ready.set()
        self._ready.set()

    def wait(self):
        assert self._ready.wait(START), "the server did not start"
        assert self.lines, self.errors
        return self

    @property
    def url(self):
        return self.lines[0].rpartition(" ")[2]

    @property
    def port(self):
        return int(self.url.partition("//")[2].partition("/")[0].rpartition(":")[2])

    def predict(self, **body):
        """The answer to a predict request, which has to be 200."""
        status, answer = self.post(json.dumps(body).encode())
        assert status == 200, answer
        return answer

    def post(self, body, path=":predict", **headers):
        return ask(self.url + path, body, **headers)

    def metrics(self):
        page = urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=30).read().decode()
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in page.splitlines() if line[0] != "#"}

    def stop(self, number=signal.SIGTERM):
        """Its exit status."""
        self.process.send_signal(number)
        try:
            return self.process.wait(STOP)
        finally:
            self.kill()

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for reader in self._readers:
            reader.join()
        self.process.stdout.close()
        self.process.stderr.close()


def ask(url, body=None, method=None, timeout=60, **headers):
    """Status and JSON of an answer, whatever the status."""
    request = urllib.request.Request(url, body, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return answer.status, json.loads(answer.read() or "null")
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read() or "null")


@contextlib.contextmanager
def serving(directory, *arguments):
    server = Server(directory, *arguments)
    try:
        yield server.wait()
    finally:
        server.kill()
