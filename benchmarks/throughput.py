#!/usr/bin/env python3
"""How many pictures a second does a training step take in? The authors' way beside ours, in turn, in one process.

    python benchmarks/throughput.py FOLDER [--device cuda] [--teacher vgg19] [--size 224] [--batches 64 12 ...]
        [--minutes 6]

writes FOLDER/throughput_<device>.json, after each row, and FOLDER/throughput_<device>.md. Weights are random: they
don't change the time.

The baseline is the step as the authors write it: float32, one operation after the other (eager), NCHW, every tap a
tensor of its own, the loss a sum over 22 taps of (a - b).abs().mean(), Adam in PyTorch's default form. Two kinds of
it are measured on a GPU: 'strict' does float32 arithmetic throughout; 'default' is PyTorch's default, whose
convolutions round their factors to TF32 (matrix products don't). Both sides keep the pictures on the device, and
neither asks for the loss in the timed steps.

Ours is what `distill` runs: the library's own parts. 'plain' is speed='plain', the lesson's step; 'bf16' is
speed='auto' on a GPU, under bf16 autocast and with cuDNN's search for the fastest convolution; 'compiled' and
'graphs' are speed='compiled', without CUDA graphs (several processes) and with them. Peak memory is what tensors
held at most (GPU), or that of a fresh process (CPU).
With --curves, 200 steps of Stage-II with vgg19_lite on emoji are taken by 'plain' and by 'compiled', and their
losses are compared.
"""
import argparse, json, platform, resource, statistics, subprocess, sys, time
from pathlib import Path
import torch, torch.nn.functional as F
from sdn_lite.data import load_emoji
from sdn_lite.losses import LevelLoss
from sdn_lite.speed import MemoryTrace, compiled_step, flops_of
from sdn_lite.stages import drawn_taps
from sdn_lite.student import mirror
from sdn_lite.teacher import get_teacher

# dense bf16 operations a second, from the makers' data sheets
PEAKS = {'H100': 989.4e12, 'H200': 989.4e12, 'A100': 312e12}
PAPER = dict(text_dim=1024, fc_dim=4096)


def baseline(a, batch, images, z):
    "The step as the authors write it."
    t, s = parts(a, torch.contiguous_format)
    opt = torch.optim.Adam(s.parameters(), 1e-4)
    def look(x):
        taps, x = [x], (x - t.mean)/t.std
        for tap in t.taps[1:]:
            x = F.relu(t.convs[tap.name](x)) if tap.name in t.convs else F.avg_pool2d(x, 2)
            taps.append(x)
        return taps
    def draw(z):
        x = F.relu(s.pool5(F.relu(s.fc6(F.relu(s.fc7(z)))))).view(-1, *s.top); taps = [x]
        for step in s.plan:
            x = F.interpolate(x, scale_factor=2, mode='nearest') if step.kind == 'upsample' else s.convs[step.makes](x)
            if step.kind == 'conv' and step.makes != 'image': x = F.relu(x)
            taps.append(x)
        return taps[::-1]
    def step(stage=2):
        with torch.no_grad(): real = look(images)
        own = draw(z)
        loss = sum((mine - theirs).abs().mean() for mine, theirs in zip(own if stage == 1 else look(own[0]), real))
        opt.zero_grad(); loss.backward(); opt.step()
        return loss
    return step


def ours(a, batch, images, z, precision='no', compiled=False, **options):
    "The library's step."
    t, s = parts(a, torch.channels_last); loss = LevelLoss(t, scale='raw').to(a.device)
    images, opt = images.to(memory_format=torch.channels_last), torch.optim.Adam(s.parameters(), 1e-4, fused=True)
    fast = compiled_step(t, s, loss, **options) if compiled else None
    def step(stage=2):
        with torch.autocast(a.device.type, torch.bfloat16, enabled=precision == 'bf16'):
            if fast: report = fast(stage, images, z)
            else:
                report = loss(torch.no_grad()(t.walk)(images), drawn_taps(stage, t, s, z))
        report.total.backward(); opt.step(); opt.zero_grad()
        return report.total
    return step


def parts(a, fmt):
    "Teacher and student, the same for every side."
    torch.manual_seed(0)
    with torch.device(a.device):
        t = get_teacher(
            a.teacher, weights='default' if a.teacher == 'vgg19_lite' and a.device.type != 'meta' else None
        ).to(a.device).to(memory_format=fmt)
        return t, mirror(t, a.text_dim, a.fc_dim, a.size, 'scaled').to(a.device, memory_format=fmt)


def tf32(on): torch.backends.cudnn.allow_tf32 = on


def variants(a):
    "name -> (function that makes a step, settings in force while it runs)"
    v = ({'strict': (baseline, False), 'default': (baseline, True), 'plain': (ours, True)} if a.device.type == 'cuda'
         else {'strict': (baseline, True), 'plain': (ours, True)})
    if a.device.type == 'cuda':
        from functools import partial
        v |= {'bf16': (partial(ours, precision='bf16'), True)}
        v |= {'compiled': (partial(ours, precision='bf16', compiled=True, graphs=False), True),
              'graphs': (partial(ours, precision='bf16', compiled=True), True)}
    return v


def wait(a): torch.cuda.synchronize() if a.device.type == 'cuda' else None


def measure(a, batch, names, rounds, steps, stage=2):
    """name -> dict of seconds and memory of each variant; the variants take turns, so that a noisy moment hits all
    of them."""
    out, made = {}, {}
    torch.manual_seed(1)
    images, z = torch.rand(batch, 3, a.size, a.size, device=a.device), torch.randn(batch, a.text_dim, device=a.device)
    for name in names:
        make, allow = variants(a)[name]; tf32(allow)
        try:
            begin = time.monotonic(); step = make(a, batch, images, z)
            torch.backends.cudnn.benchmark = name not in ('strict', 'default', 'plain')
            first = [step(stage).item() for _ in range(4 if a.device.type == 'cuda' else 1)]; wait(a)
            if a.device.type == 'cuda':
                torch.cuda.empty_cache(); torch.cuda.reset_peak_memory_stats(); step(stage); wait(a)
                out[name] = dict(peak_allocated=torch.cuda.max_memory_allocated(),
                                 reserved=torch.cuda.max_memory_reserved())
            else: out[name] = {}
            out[name] |= dict(losses=first, warmup=time.monotonic() - begin, seconds=[])
            # a GPU's memory would not hold all sides at once: each runs its rounds by itself
            one_side = a.device.type == 'cuda'
            if one_side:
                out[name]['seconds'] = [timed(a, step, steps, stage) for _ in range(rounds)]
                step = None; torch.compiler.reset(); torch.cuda.empty_cache()
            else: made[name] = step
        except torch.OutOfMemoryError:
            out[name] = dict(error='out of memory')
            step = None; torch.compiler.reset(); torch.cuda.empty_cache()
        except Exception as e:
            out[name] = dict(error=f'{type(e).__name__}: {e}'[:800])
            step = None; torch.compiler.reset()
        say(f'  batch {batch} stage {stage} {name}: {out[name]}')
    for _ in range(rounds):
        for name, step in made.items(): out[name]['seconds'].append(timed(a, step, steps, stage))
    return out


def timed(a, step, steps, stage):
    wait(a); begin = time.perf_counter()
    for _ in range(steps): step(stage)
    wait(a); return (time.perf_counter() - begin)/steps


def say(text): print(f'[{time.monotonic() - START:5.0f} s] {text}', flush=True)


def memory_of(a, name, batch):
    """Highest memory of a fresh process that runs three steps of one side, what it had before the first, and the most
    that the tensors of a step take, in bytes (CPU)."""
    code = (f"import sys; sys.argv = ['x', 'none', '--teacher', {a.teacher!r}, '--size', '{a.size}', "
            f"'--text-dim', '{a.text_dim}', '--fc-dim', '{a.fc_dim}', '--device', 'cpu']\n"
            f"sys.path.insert(0, {str(Path(__file__).parent)!r}); "
            f"import throughput as t; t.one_side({name!r}, {batch})")
    r = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    return json.loads(r.stdout.strip().splitlines()[-1])


def one_side(name, batch):
    a = arguments(); torch.manual_seed(1)
    peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss*1024
    images, z = torch.rand(batch, 3, a.size, a.size), torch.randn(batch, a.text_dim)
    step = variants(a)[name][0](a, batch, images, z); before = peak()
    for _ in range(3): step()
    highest = peak()
    with MemoryTrace() as m: step()
    print(json.dumps(dict(before=before, peak=highest, tensors=m.most)))


def curves(a, fast, steps=200, window=20):
    """Losses of Stage-II with vgg19_lite on 384 emoji in float32, one operation after the other, and of `fast`;
    the largest relative difference between means of `window` steps."""
    pictures = torch.stack([load_emoji().read(i) for i in range(384)]).to(a.device).float()/255
    z = torch.randn(384, 256, generator=torch.Generator().manual_seed(0)).to(a.device)
    out = {}
    for name in ('plain', fast):
        x, v = torch.empty(16, 3, 64, 64, device=a.device), torch.empty(16, 256, device=a.device)
        settings = argparse.Namespace(device=a.device, teacher='vgg19_lite', size=64, text_dim=256, fc_dim=512)
        step = variants(a)[name][0](settings, 16, x := x.to(memory_format=torch.channels_last), v); losses = []
        for k in range(steps):
            i = (torch.arange(16, device=a.device) + 16*k) % 384
            x.copy_(pictures[i]); v.copy_(z[i]); losses.append(step().item())
        out[name] = losses; torch.compiler.reset()
    means = [torch.tensor(v).unfold(0, window, window).mean(1) for v in out.values()]
    return dict(losses=out, window=window, worst=((means[1] - means[0])/means[0]).abs().max().item())


def arguments():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('folder'); p.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    p.add_argument('--teacher', default='vgg19'); p.add_argument('--size', type=int)
    p.add_argument('--batches', type=int, nargs='+')
    p.add_argument('--text-dim', type=int); p.add_argument('--fc-dim', type=int)
    p.add_argument('--rounds', type=int, default=5); p.add_argument('--steps', type=int)
    p.add_argument('--sides', nargs='+', help='measure these only')
    p.add_argument('--no-memory', action='store_true', help="don't start further processes to measure memory (CPU)")
    p.add_argument('--curves', action='store_true', help='compare the losses of 200 steps, too')
    p.add_argument('--minutes', type=float, default=6, help='no new row is begun after this time')
    a = p.parse_args(); a.device = torch.device(a.device); gpu = a.device.type == 'cuda'
    a.size = a.size or (224 if gpu else 64); a.batches = a.batches or ([64, 12, 256, 128, 32] if gpu else [16])
    a.text_dim, a.fc_dim, a.steps = (
        a.text_dim or (1024 if gpu else 256), a.fc_dim or (4096 if gpu else 512), a.steps or (4 if gpu else 1))
    return a


def main():
    a = arguments(); folder = Path(a.folder); folder.mkdir(parents=True, exist_ok=True); gpu = a.device.type == 'cuda'
    name = (torch.cuda.get_device_name() if gpu
            else f'{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}')
    peak = next((v for k, v in PEAKS.items() if k in name), None)
    result = dict(device=name, torch=torch.__version__, python=platform.python_version(), teacher=a.teacher,
                  size=a.size, text_dim=a.text_dim, fc_dim=a.fc_dim,
                  peak_flops=peak, command=' '.join(['python', *sys.argv]), rows=[])
    with torch.device('meta'):
        shapes = baseline(argparse.Namespace(**vars(a) | dict(device=torch.device('meta'))), 1,
                          torch.rand(1, 3, a.size, a.size), torch.randn(1, a.text_dim))
    result['flops_per_picture'] = {stage: flops_of(lambda: shapes(stage)) for stage in (1, 2)}
    say(f'{name}, torch {torch.__version__}; operations for a picture: {result["flops_per_picture"]}')
    slot = folder/f'throughput_{a.device.type}_{a.teacher}_{a.size}'
    every = [n for n in variants(a) if not a.sides or n in a.sides]
    few = [n for n in every if n in ('strict', 'default', 'bf16', 'graphs')]
    todo = ([(b, 2, every if b == a.batches[0] or b == 12 or not gpu else few) for b in a.batches]
            + [(b, 1, every if not gpu else few) for b in a.batches[:2]])
    save = lambda: (slot.with_suffix('.json').write_text(json.dumps(result, indent=1)),
                    slot.with_suffix('.md').write_text(table(result)))
    for k, (batch, stage, names) in enumerate(todo):
        if time.monotonic() - START > a.minutes*60: say(f'no time for batch {batch}, stage {stage}'); continue
        row = dict(batch=batch, stage=stage, sides=measure(a, batch, names, a.rounds, a.steps, stage))
        result['rows'].append(row)
        if not gpu and stage == 2 and not a.no_memory: row['memory'] = {n: memory_of(a, n, batch) for n in names}
        save()
        if k == min(1, len(todo) - 1) and a.curves:
            try:
                result['curves'] = curves(a, 'compiled' if 'compiled' in every else every[-1])
                say(f"curves: {result['curves']['worst']:.2%} at most")
            except Exception as e:
                result['curves'] = dict(error=f'{type(e).__name__}: {e}'[:800])
                say(f"curves: {result['curves']}")
            save()
    print(table(result))


def table(result):
    """The rows as markdown: median milliseconds of a step with its range, pictures a second, ratios, share of the
    peak, memory."""
    lines = [f"{result['device']}, torch {result['torch']}; teacher {result['teacher']}, {result['size']} px, "
             f"text {result['text_dim']}, fc {result['fc_dim']}. `{result['command']}`", '',
             '| stage | batch | side | ms a step (range) | pictures a second | times strict | times default | '
             'share of bf16 peak | peak memory, GB | tensors of a step, MB | first steps, s |',
             '|---|---|---|---|---|---|---|---|---|---|---|']
    for row in result['rows']:
        sides = row['sides']
        base = {n: statistics.median(sides[n]['seconds'])
                for n in ('strict', 'default') if sides.get(n, {}).get('seconds')}
        for n, v in sides.items():
            if 'error' in v:
                lines.append(f"| {row['stage']} | {row['batch']} | {n} | {v['error'].splitlines()[0][:80]} "
                             '| | | | | | | |')
                continue
            m = statistics.median(v['seconds']); flops = result['flops_per_picture'][row['stage']]*row['batch']
            memory = v.get('peak_allocated') or row.get('memory', {}).get(n, {}).get('peak')
            cells = ['I' if row['stage'] == 1 else 'II', row['batch'], n,
                     f"{m*1e3:.1f} ({min(v['seconds'])*1e3:.1f} to {max(v['seconds'])*1e3:.1f})",
                     f"{row['batch']/m:.0f}",
                     *(f'{base[b]/m:.2f}' if b in base else '-' for b in ('strict', 'default')),
                     f"{flops/m/result['peak_flops']:.1%}" if result['peak_flops'] else '-',
                     f'{memory/1e9:.2f}' if memory else '-',
                     f"{row['memory'][n]['tensors']/1e6:.0f}" if 'memory' in row else '-', f"{v['warmup']:.0f}"]
            lines.append('| ' + ' | '.join(map(str, cells)) + ' |')
    return '\n'.join(lines) + '\n'


START = time.monotonic()
if __name__ == '__main__': main()
