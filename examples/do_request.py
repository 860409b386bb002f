"""Sends float32 images to examples/row_stats.py, one after another, and prints how long it took.

    python examples/do_request.py [--small] [--large] [--requests 50] [--url URL]

Needs requests, tqdm, click and NumPy: pip install '.[client]' in a checkout.
"""

import time

import click
import numpy as np
import requests
from tqdm import tqdm

SHAPE = (3000, 2500)
TIMEOUT_S = 60


def images(small: bool, large: bool) -> dict[str, np.ndarray]:
    """What to send, by the name of its row in the table; both when neither is asked for."""
    rng = np.random.default_rng()
    wanted = {}
    if small or not large:
        wanted["small"] = rng.random(1, dtype=np.float32)
    if large or not small:
        wanted["large"] = rng.random(SHAPE, dtype=np.float32)
    return wanted


def expected(image: np.ndarray) -> float:
    """What the server must answer; a single value stands for an image of one brightness."""
    return float(image.mean(axis=1).std(axis=0)) if image.ndim == 2 else 0.0


def send(url: str, image: np.ndarray, count: int, label: str) -> float:
    """The seconds that `count` requests took, a new connection each, as `requests.post` does."""
    body = image.tobytes()
    answers = []
    start = time.perf_counter()
    for _ in tqdm(range(count), desc=label, unit="request"):
        response = requests.post(url, data=body, timeout=TIMEOUT_S)
        response.raise_for_status()
        answers.append(np.frombuffer(response.content, dtype=np.float32)[0])
    elapsed = time.perf_counter() - start
    if not np.allclose(answers, expected(image), rtol=1e-3, atol=1e-4):
        raise click.ClickException(f"wrong answer: expected {expected(image)}, got {answers[0]}")
    return elapsed


@click.command()
@click.option("--url", default="http://127.0.0.1:8000/predict", show_default=True)
@click.option("--small", is_flag=True, help="Send one value, 4 bytes.")
@click.option("--large", is_flag=True, help="Send a whole image, 30,000,000 bytes.")
@click.option("--requests", "count", default=50, show_default=True, type=click.IntRange(min=1))
def main(url: str, small: bool, large: bool, count: int) -> None:
    """Time requests to the example server. Both sizes unless one is asked for."""
    lines = [f"{'size':<6} {'bytes':>10} {'requests':>9} {'total s':>9} {'ms each':>9}"]
    for label, image in images(small, large).items():
        try:
            elapsed = send(url, image, count, label)
        except requests.RequestException as error:
            raise click.ClickException(str(error)) from None
        each_ms = elapsed / count * 1000
        lines.append(f"{label:<6} {image.nbytes:>10} {count:>9} {elapsed:>9.3f} {each_ms:>9.2f}")
    click.echo("\n".join(lines))


if __name__ == "__main__":
    main()
