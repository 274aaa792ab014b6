#!/usr/bin/env python3
"""How long is one training step, and what makes it faster? Compares memory format, precision and torch.compile.

    python benchmarks/step.py [batch] [repeats]

Each row: median milliseconds of a step with the range, its ratio to the first row of the same stage, seconds of
the first step. All rows are measured in one process, one after the other; nothing else should run on the machine.
"""
import statistics, sys, time, torch
from sdn_lite.losses import LevelLoss
from sdn_lite.stages import drawn_taps
from sdn_lite.student import mirror
from sdn_lite.teacher import get_teacher

def measure(stage, fmt, precision, compiled, batch, repeats):
    torch.manual_seed(0)
    teacher = get_teacher().to(memory_format=fmt); student = mirror(teacher, 256).to(memory_format=fmt)
    loss = LevelLoss(teacher, scale='raw')
    x, z = torch.rand(batch, 3, 64, 64).to(memory_format=fmt), torch.randn(batch, 256)
    opt = torch.optim.Adam(student.parameters(), 1e-3, fused=True)
    def forward(x, z):
        with torch.autocast('cpu', torch.bfloat16, enabled=precision == 'bf16'):
            with torch.no_grad(): real = teacher(x)
            return loss(real, drawn_taps(stage, teacher, student, z)).total
    f, times = torch.compile(forward) if compiled else forward, []
    for _ in range(repeats + 1):
        start = time.monotonic()
        f(x, z).backward(); opt.step(); opt.zero_grad()
        times.append(time.monotonic() - start)
    return times[0], times[1:]

batch, repeats = (int(a) for a in (sys.argv[1:] + ['16', '9'][len(sys.argv) - 1:]))
for stage in (1, 2):
    base = None
    for fmt, precision, compiled in (
            (torch.contiguous_format, 'fp32', False), (torch.channels_last, 'fp32', False),
            (torch.channels_last, 'bf16', False), (torch.channels_last, 'fp32', True)):
        first, t = measure(stage, fmt, precision, compiled, batch, repeats); m = statistics.median(t); base = base or m
        print(f"Stage {stage}  {'channels_last' if fmt == torch.channels_last else 'contiguous':13} {precision} "
              f"{'compiled' if compiled else '        '}  {m*1000:.0f} ms ({min(t)*1000:.0f} to {max(t)*1000:.0f})  "
              f"ratio {base/m:.2f}  first step {first:.1f} s", flush=True)
