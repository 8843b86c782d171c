"""Write the ready batch scripts beside this file, by ``rankmap submit``: ``make scripts``.

They launch mpi_examples/hello_affinity.py from a checkout with its .venv (``make demo``), one rank for each GPU or
tile. PROJECT is the reader's to replace.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent
SCRIPTS: Final = {
    "polaris.pbs": "pbs --machine polaris --queue debug --filesystems home:eagle",
    "aurora.pbs": "pbs --machine aurora --queue debug --filesystems home:flare",
    "frontier.sbatch": "slurm --machine frontier --queue batch --directive --qos=debug",
    "perlmutter.sbatch": "slurm --machine perlmutter-gpu --queue debug",
}
COMMON: Final = "--nodes 2 --account PROJECT --walltime 0:10:00 --job-name hello --path .venv/bin --force"
LAUNCH: Final = "--gpus-per-rank 1 --smt 1 --report-bindings -- python mpi_examples/hello_affinity.py"


def main(folder: Path) -> None:
    """Write all of them into this directory."""
    for name, words in SCRIPTS.items():
        args = [*words.split(), *COMMON.split(), "-o", str(folder / name), "--", *LAUNCH.split()]
        subprocess.run([sys.executable, "-m", "rankmap", "submit", *args], check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else HERE)
