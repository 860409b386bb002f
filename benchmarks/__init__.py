"""Measures fastpredict beside other servers and the least that a server can do: script/bench."""
