"""Peak anonymous memory of a training run: two tables, and nothing that grows with the text.

python -m experiments.benchmarks.word2vec_memory --text PATH [--repeat 4]

The run happens in a process of its own, whose RssAnon is read every 20 ms; pages of the mapped id
file are not anonymous. The figure is over what the imports take. `--repeat 4` makes the text four
times as long.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from experiments.benchmarks.record import record
from jaxembed.data import read_sentences
from jaxembed.run import load_run

CHILD = """
import sys
import jax, jaxembed.run, experiments.word2vec, matplotlib.figure, sklearn.manifold
jax.block_until_ready(jax.numpy.zeros(1))
print("imported", flush=True)
sys.stdin.readline()
from experiments.word2vec import Config, make_recipe, report
from jaxembed.cli import run_experiment
arguments = ["--data", sys.argv[1], "--workdir", sys.argv[2], "--epochs", "1"]
options = {"smoke": {}, "report": report, "description": "", "arguments": arguments}
options["returns_memory"] = True
sys.exit(run_experiment(make_recipe, Config, **options))
"""


def anonymous(pid: int) -> int:
    """Anonymous resident bytes of a process, 0 once it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    sizes = [int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon")]
    return sizes[0] if sizes else 0


def main() -> None:
    """Measures one text."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", required=True)
    parser.add_argument("--repeat", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "text.txt"
        with open(text, "w") as file:
            for _ in range(options.repeat):
                for tokens, _ in read_sentences(options.text):
                    file.write(" ".join(tokens) + " ")
        command = [sys.executable, "-c", CHILD, str(text), f"{folder}/run"]
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        child.stdout.readline()
        imports, peak = anonymous(child.pid), 0
        child.stdin.write("\n")
        child.stdin.flush()
        while child.poll() is None:
            peak = max(peak, anonymous(child.pid))
            time.sleep(0.02)
        if child.returncode:
            raise SystemExit(f"the run ended with {child.returncode}")
        run = load_run(f"{folder}/run")
        tables = 2 * 4 * run.resolved["vocab_size"] * run.recipe.model.dim
        bound = 1.3 * tables + 300e6
        row = {"words": run.resolved["words"], "vocab_size": run.resolved["vocab_size"]}
        row |= {"imports_mb": round(imports / 1e6), "bound_mb": round(bound / 1e6)}
        row |= {"peak_over_imports_mb": round((peak - imports) / 1e6)}
        record("word2vec_memory", row)


if __name__ == "__main__":
    main()
