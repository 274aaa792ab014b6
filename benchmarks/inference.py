#!/usr/bin/env python3
"""How long does one caption take, from text to PIL picture, and how many a second come from batches? Imports aside.

    python benchmarks/inference.py [rounds]

Two models: the bundled one (64 px), and one of the paper's size (224 px, 143.8 million parameters, random
weights, text vectors of 1024 numbers given, as the paper has them). One caption and a batch of 64 take turns;
the first round of each is not counted.
"""
import statistics, sys, time, torch
from sdn_lite.pipeline import TextToImage
from sdn_lite.student import mirror
from sdn_lite.teacher import get_teacher
from sdn_lite.text import Precomputed

def measure(t2i, one, many, rounds):
    t = {'one': [], 'batch': []}
    for k in range(rounds + 1):
        for name, what, times in (('one', one, 10), ('batch', many, 1)):
            begin = time.perf_counter()
            for _ in range(times): t2i(what)
            if k: t[name].append((time.perf_counter() - begin)/times)
    n, m = len(many), {k: statistics.median(v) for k, v in t.items()}
    print(f'  one {m["one"]*1e3:.1f} ms ({min(t["one"])*1e3:.1f} to {max(t["one"])*1e3:.1f}), '
          f'{1/m["one"]:.1f} a second | {n} together {m["batch"]*1e3:.0f} ms '
          f'({min(t["batch"])*1e3:.0f} to {max(t["batch"])*1e3:.0f}), '
          f'{n/m["batch"]:.1f} a second | ratio {n/m["batch"]*m["one"]:.2f}', flush=True)

rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
print(f'{torch.get_num_threads()} threads, torch {torch.__version__}')
print('emoji-small, 64 px'); t2i = TextToImage.from_pretrained('emoji-small')
measure(t2i, 'a red apple', [f'a red apple number {k}' for k in range(64)], rounds)
print("the paper's size, 224 px"); torch.manual_seed(0)
with torch.device('meta'): teacher = get_teacher('vgg19', weights=None)
t2i = TextToImage(Precomputed(1024), mirror(teacher, 1024, 4096, 224, 'paper'))
measure(t2i, torch.randn(1, 1024), torch.randn(64, 1024), rounds)
