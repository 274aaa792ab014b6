#!/usr/bin/env python3
"""How much later than `import torch, torchvision` are the import and the first picture?

    python benchmarks/startup.py [repeats]

Runs the three commands in turn, in fresh processes, and prints the median and the range of each in seconds.
"""
import statistics, subprocess, sys, tempfile, time

COMMANDS = {
    'import torch, torchvision': 'import torch, torchvision',
    'import sdn_lite.all': 'import torch, torchvision, sdn_lite.all',
    'sdn_generate "a red apple"': 'import sys; from sdn_lite.cli import sdn_generate; sdn_generate(["a red apple"])',
}

def seconds(code, cwd):
    start = time.monotonic()
    subprocess.run([sys.executable, '-c', code], cwd=cwd, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - start

with tempfile.TemporaryDirectory() as tmp:
    for code in COMMANDS.values(): seconds(code, tmp)    # once unmeasured: the disk's cache
    times = {name: [] for name in COMMANDS}
    for _ in range(int(sys.argv[1]) if len(sys.argv) > 1 else 7):
        for name, code in COMMANDS.items(): times[name].append(seconds(code, tmp))
base = statistics.median(times['import torch, torchvision'])
for name, t in times.items():
    print(f'{name:28} median {statistics.median(t):.2f} s ({min(t):.2f} to {max(t):.2f}), '
          f'{statistics.median(t) - base:+.2f} s')
