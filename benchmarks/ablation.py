#!/usr/bin/env python3
"""The paper's questions, asked again: what does each level teach, and each stage? Which pool, scale and distance?
And what does a student learn without a teacher?

    pip install 'sdn_lite[metrics]'      # the judge
    OMP_NUM_THREADS=1 python benchmarks/ablation.py runs/ablation [--seconds 90] [--seeds 0 1 2]

Every row trains for the same time. How many epochs that is, is measured once at the beginning, on a machine
that should do nothing else, and kept in RUNS/epochs.json; from then on it doesn't matter what the machine does.
A level that is off has the weight 0; the others keep the weights of `DistillConfig`. A single stage gets the
time of both. Without a teacher, the student learns from the pixels alone: mean absolute difference to the
picture, the same optimiser and the same batches; once for the same time, and once for as many epochs as the
first row. Two rows show what four times the time changes.
Writes nbs/labs/ablation.json and a strip of pictures a row for nbs/labs/ablation.ipynb, and from the rows about
levels and stages what `LevelMixer` shows (sdn_lite/assets/ablation). Runs that are there are not repeated, and
an interrupted one is gone on with. The rows are written again after each run. The rows of MAIN are trained with
every seed, the others with the first.
"""
import argparse, json, time
from functools import lru_cache
from itertools import combinations
from pathlib import Path
import numpy as np, torch
from PIL import Image
from demo import bytes_of
from equal_time import epoch_seconds, planned
from sdn_lite.all import (
    LEVELS, DistillConfig, Retrieval, TextToImage, as_bytes, batches_of, distill,
    get_network, get_teacher, load_splits, mirror, psnr)
from sdn_lite.stages import Indexed, optimiser, save_model, seed_of, text_encoder_for

ROOT, SHOWN, SHARE = Path(__file__).resolve().parent.parent, 12, (1, 4)
BASE, DEFAULT = dict(data='emoji-small', text='static', batch=8, lr=7e-4, warmup=0, snapshots=0), DistillConfig()

def levels(*on): return dict(levels={l: DEFAULT.levels[l]*(l in on) for l in LEVELS})

# Row -> (settings that differ from BASE, the stages' shares of the time)
ROWS = {'all levels, Stage-I and II': ({}, SHARE)}
ROWS |= {' + '.join(s): (levels(*s), SHARE) for n in (1, 2) for s in combinations(LEVELS, n)}
ROWS |= {
    'Stage-I only': ({}, (1, 0)), 'Stage-II only': ({}, (0, 1)), 'no teacher, pixels only': (None, (0, 1)),
    'max pool': (dict(pool='max'), SHARE),
    'raw scale, every level 1': (dict(scale='raw', levels=dict.fromkeys(LEVELS, 1.)), SHARE),
    'every level 1': (dict(levels=dict.fromkeys(LEVELS, 1.)), SHARE),
    'L2': (dict(distance='l2'), SHARE), 'with warm-up': (dict(warmup=2000), SHARE)}

# One row is not given the same time but the same epochs: is it the teacher that costs so much, or what it teaches?
# And two are given more time
AS_MANY, LONG = 'no teacher, as many epochs', {
    'with warm-up, 4 times the time': 'with warm-up', 'no teacher, 4 times the time': 'no teacher, pixels only'}

# trained with every seed; the other rows with the first
MAIN = ('all levels, Stage-I and II', *LEVELS, 'Stage-I only', 'Stage-II only', 'no teacher, pixels only', AS_MANY)

def slug(name): return '-'.join(''.join(c if c.isalnum() else ' ' for c in name).lower().split())

def pixels_only(config, folder, epochs=None, seconds=None):
    "Train a student without a teacher, for `epochs`, or for `seconds` to see how long an epoch takes: returns that."
    train = load_splits(config.data, config.size)['train']; enc = text_encoder_for(config, train)
    batches = Indexed(train, enc, config)
    torch.manual_seed(config.seed)
    student = mirror(get_teacher(config.teacher), enc.dim, config.fc_dim, config.size, config.init).to(
        memory_format=torch.channels_last)
    opt, sched = optimiser(config, student, (epochs or 1000)*batches.count, torch.device('cpu'))
    start = time.monotonic()
    for epoch in range(epochs or 1000):
        for images, z in batches.epoch(seed_of(config.seed, 2, epoch)):
            (student(z) - images.float()/255).abs().mean().backward(); opt.step(); opt.zero_grad(); sched.step()
        if seconds and time.monotonic() - start > seconds: return (time.monotonic() - start)/(epoch + 1)
    save_model(folder, enc, student, teacher=config.teacher, data=config.data)

COST = 'pool', 'distance'      # what changes how long a step takes; a level of weight 0 is computed like the others

@lru_cache
def times(cost):
    "Seconds of one epoch of each stage."
    if cost is None: return [0, pixels_only(DistillConfig(**BASE), None, seconds=4)]
    return epoch_seconds(BASE | dict(cost))

def trained(name, seed, epochs, runs):
    "The model of one row and seed, trained if it isn't there."
    settings, folder = ROWS[name][0], runs/f'{slug(name)}-{seed}'
    config = DistillConfig(out=str(folder), seed=seed, epochs=tuple(epochs), **BASE | (settings or {}))
    if settings is not None:
        return TextToImage.from_pretrained(distill(config, progress=False, resume=folder.exists()).folder)
    if not folder.exists():
        pixels_only(config, folder.with_suffix('.part'), epochs[1])
        folder.with_suffix('.part').rename(folder)
    return TextToImage.from_pretrained(folder)

def strip(pictures): return Image.fromarray(np.concatenate(list(bytes_of(pictures)), 1))

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('runs', type=Path); parser.add_argument('--seconds', type=float, default=90)
    parser.add_argument('--seeds', type=int, nargs='+', default=(0, 1, 2))
    parser.add_argument('--lab', type=Path, default=ROOT/'nbs/labs')
    parser.add_argument('--assets', type=Path, default=ROOT/'sdn_lite/assets/ablation')
    a = parser.parse_args(); a.runs.mkdir(parents=True, exist_ok=True); a.assets.mkdir(parents=True, exist_ok=True)
    plan = planned(a.runs/'epochs.json', a.seconds, {
        name: (lambda r=row: times(None if r is None else tuple((k, r[k]) for k in COST if k in r)), share)
        for name, (row, share) in ROWS.items()})
    plan['epochs'] |= (
        {AS_MANY: [0, sum(plan['epochs']['all levels, Stage-I and II'])]}
        | {long: [4*e for e in plan['epochs'][short]] for long, short in LONG.items()})
    ROWS[AS_MANY] = ROWS['no teacher, pixels only']; ROWS |= {long: ROWS[short] for long, short in LONG.items()}
    splits, net = load_splits(BASE['data'], 64), get_network('efficientnet-lite0')
    look = lambda pictures: torch.cat([net(b)[0] for b in batches_of(pictures, 64)])
    find = Retrieval(torch.cat([look(ds) for ds in splits.values()]))
    place = {id: i for i, id in enumerate(i for ds in splits.values() for i in ds.ids)}
    ds = splits['train']; idxs = [k*len(ds)//SHOWN for k in range(SHOWN)]; captions = [ds.captions(i)[0] for i in idxs]
    for folder in (a.lab, a.assets):
        strip(ds.images(idxs)).save(folder/('real.png' if folder == a.assets else 'ablation_real.png'))
    rows = {name: dict(name=name, stages=[s + 1 for s in (0, 1) if share[s]], epochs=plan['epochs'][name],
                       file=f'ablation_{slug(name)}.png', seeds={}) for name, (_, share) in ROWS.items()}
    for seed in a.seeds:
        for name, row in rows.items():
            if seed != a.seeds[0] and name not in MAIN: continue
            t2i, found = trained(name, seed, row['epochs'], a.runs), {}
            for split in ('train', 'unseen'):
                part = splits[split]; drawn = as_bytes(t2i.images([part.captions(i)[0] for i in range(len(part))]))
                find.reset(); find.add(look(drawn), [place[i] for i in part.ids])
                found[f'r1_of_100 {split}'] = find.result()['r1_of_100']
                found[f'psnr {split}'] = round(psnr(drawn, as_bytes(part.images())).mean().item(), 2)
            row['seeds'][seed] = found; print(seed, name, row['epochs'], found, flush=True)
            if seed == a.seeds[0]: strip(t2i.images(captions)).save(a.lab/row['file'])
            done = [r for r in rows.values() if r['seeds']]
            (a.lab/'ablation.json').write_text(json.dumps(dict(
                captions=captions, real='ablation_real.png', settings=BASE, seconds=plan['seconds'],
                threads=plan['threads'], each=plan['each'], rows=done), indent=1))
    mean = lambda row, key: round(float(np.mean([s[key] for s in row['seeds'].values()])), 4)
    mixed = {name: tuple(LEVELS) if name[0] not in 'lmh' else tuple(name.split(' + '))
             for name in ROWS if name.startswith(('all levels', 'low', 'mid', 'high', 'Stage'))}
    for name in mixed: (a.assets/f'{slug(name)}.png').write_bytes((a.lab/rows[name]['file']).read_bytes())
    (a.assets/'ablation.json').write_text(json.dumps(dict(captions=captions, real='real.png', rows=[
        dict(levels=on, stages=rows[n]['stages'], file=f'{slug(n)}.png', epochs=rows[n]['epochs'],
             seeds=len(rows[n]['seeds']), seconds=plan['seconds'],
             r1_of_100={s: mean(rows[n], f'r1_of_100 {s}') for s in ('train', 'unseen')})
        for n, on in mixed.items()]), indent=1))
