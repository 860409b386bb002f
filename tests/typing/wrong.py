"""Mistakes of users; mypy must find fault with every line that says so (see test_typing.py)."""

from __future__ import annotations

import fastpredict

app = fastpredict.App()
fastpredict.serve(app, prot=8000)  # wrong
fastpredict.Server(app, log_level="info")  # wrong
fastpredict.Server(app, threads=None).url = "http://x"  # wrong
app.predict(8000)  # wrong
fastpredict.Response(b"", "200")  # wrong
