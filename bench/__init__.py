"""The benchmark: the server on each engine beside a floor, in one run. `python -m bench --help` tells what it takes."""
