"""BentoML: python -m bentoml serve benchmarks.apps.bentoml_app:Bench

Its idiom for bytes is a file: the body comes as the file of a form, and is read from where BentoML
put it.
"""

from pathlib import Path

import bentoml

from benchmarks.apps.handlers import from_bytes


@bentoml.service(workers=1, traffic={"timeout": 60}, logging={"access": {"enabled": False}})
class Bench:
    @bentoml.api(route="/predict")
    def predict(self, file: Path) -> str:
        return from_bytes("/predict", file.read_bytes()).hex()

    @bentoml.api(route="/seed")
    def seed(self, file: Path) -> str:
        return from_bytes("/seed", file.read_bytes()).hex()
