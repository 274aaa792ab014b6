#!/usr/bin/env python3
"""What does each level teach, and each stage? Train with exactly those, for the same number of epochs.

    pip install 'sdn_lite[metrics]'      # the judge
    python benchmarks/ablation.py runs/ablation sdn_lite/assets/ablation [--epochs 4 16]

Writes ablation.json and the pictures that `LevelMixer` shows. A level that is off has the weight 0; the others keep
the weights of `DistillConfig`. A single stage gets the epochs of both. Runs that are there are not repeated, and an
interrupted one is gone on with.
"""
import argparse, json, time
from itertools import combinations
from pathlib import Path
import numpy as np
from PIL import Image
from demo import bytes_of, judged
from sdn_lite.all import LEVELS, DistillConfig, TextToImage, distill, load_emoji

LEVEL_SETS = [s for n in (3, 2, 1) for s in combinations(LEVELS, n)]
ROWS = [(levels, (1, 2)) for levels in LEVEL_SETS] + [(tuple(LEVELS), (1,)), (tuple(LEVELS), (2,))]

def strip(pictures): return Image.fromarray(np.concatenate(list(bytes_of(pictures)), 1))

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('runs', type=Path); parser.add_argument('out', type=Path); parser.add_argument('--epochs', type=int, nargs=2, default=(4, 16))
    a = parser.parse_args(); a.out.mkdir(parents=True, exist_ok=True)
    ds, default = load_emoji(), DistillConfig()
    idxs = [k*len(ds)//12 for k in range(12)]; captions = [ds.captions(i)[0] for i in idxs]
    strip(ds.images(idxs)).save(a.out/'real.png'); rows = []
    for levels, stages in ROWS:
        name = '-'.join(levels) + '-' + ''.join('I'*s + '_' for s in stages).rstrip('_')
        epochs = tuple(a.epochs) if len(stages) == 2 else tuple(sum(a.epochs)*(s == stages[0]) for s in (1, 2))
        folder, start = a.runs/name, time.monotonic()
        run = distill(DistillConfig(out=str(folder), epochs=epochs, levels={l: default.levels[l]*(l in levels) for l in LEVELS}), resume=folder.exists())
        seconds, t2i = round(time.monotonic() - start), TextToImage.from_pretrained(run.folder)
        strip(t2i.images(captions)).save(a.out/f'{name}.png')
        r1 = {split: r['r1_of_100'] for split, r in judged(t2i.images).items() if split != 'valid'}
        rows.append(dict(levels=list(levels), stages=list(stages), file=f'{name}.png', epochs=list(epochs), r1_of_100=r1, seconds=seconds)); print(rows[-1], flush=True)
    (a.out/'ablation.json').write_text(json.dumps(dict(captions=captions, rows=rows, real='real.png'), indent=1))
