"""Pack a run's model as this package ships it: its weights in f16, its tokenizer, its configuration.

python training/pack.py runs/tinycode src/lcm_tinycode
"""

import sys
from pathlib import Path

from lcm import models
from lcm.generate.loading import find_model
from lcm.text.tokenizer import Tokenizer


def main(run: str, out: str) -> None:
    found = find_model(run)
    tokenizer = Tokenizer.load(found)
    ends = {"bos_token_id": tokenizer.start, "eos_token_id": tokenizer.end}
    models.save(models.load(found), Path(out), format="f16", extra=ends)
    tokenizer.save(Path(out))
    print(f"{found} -> {out}: {(Path(out) / 'model.safetensors').stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main(*sys.argv[1:])
