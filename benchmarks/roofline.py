#!/usr/bin/env python3
"""How fast could a Stage-II step be on this processor if everything but its convolutions cost nothing?

    python benchmarks/roofline.py [teacher] [batch] [rounds]

Measured on one thread, in seconds of processor time, so that other work on the machine matters little:
- a matrix product in float32, bf16 and fp16: what the cores can multiply;
- the step as the authors write it (see throughput.py), and the library's plain step, in turn;
- each convolution of that step by itself, in its faster memory format: three times a pass forward (teacher on the
  real and on the drawn picture, student), the teacher's gradient for its input, the student's for its input and its
  weights. Their sum is the least that a step can take with these convolutions, and the authors' step divided by it
  the most that one could gain;
- three layers as Winograd convolutions F(4x4, 3x3), made of PyTorch's own operations: a quarter of the
  multiplications, but transformations before and after, and, for weights that change, one of the weights at each step.
"""
import statistics, sys, time, types, torch, torch.nn.functional as F
import throughput
from sdn_lite.student import mirror_plan
from sdn_lite.teacher import get_teacher

def best(f, rounds):
    f(); t = []
    for _ in range(rounds): begin = time.process_time(); f(); t.append(time.process_time() - begin)
    return min(t)

name, batch, rounds = (sys.argv[1:] + ['vgg19_lite', '16', '5'][len(sys.argv) - 1:])
batch, rounds = int(batch), int(rounds)
torch.set_num_threads(1); size = 64
a = torch.randn(1024, 1024)
print('matrix product, billion operations a second: ' + ', '.join(
    f'{str(d)[6:]} {2*1024**3/best(lambda: b @ b, rounds)/1e9:.0f}'
    for d in (torch.float32, torch.bfloat16, torch.float16) for b in [a.to(d)]), flush=True)

settings = types.SimpleNamespace(device=torch.device('cpu'), teacher=name, size=size, text_dim=256, fc_dim=512)
images, z = torch.rand(batch, 3, size, size), torch.randn(batch, 256)
steps = {n: throughput.variants(settings)[n][0](settings, batch, images, z) for n in ('strict', 'plain')}
spent = {n: [] for n in steps}
for k in range(rounds + 1):
    for n, step in steps.items():
        begin = time.process_time(); step()
        if k: spent[n].append(time.process_time() - begin)
for n, t in spent.items():
    print(f'{n:7} {statistics.median(t)*1e3:.0f} ms ({min(t)*1e3:.0f} to {max(t)*1e3:.0f})', flush=True)

def conv(c_in, c_out, side):
    """Seconds of one pass forward, of the gradient for the input, of that for the weights, each in the faster of two
    memory formats; and the operations of one."""
    out = []
    for fmt in (torch.contiguous_format, torch.channels_last):
        x, w, g = (torch.randn(*s).to(memory_format=fmt)
                   for s in ((batch, c_in, side, side), (c_out, c_in, 3, 3), (batch, c_out, side, side)))
        back = lambda *mask: torch.ops.aten.convolution_backward(
            g, x, w, [c_out], [1, 1], [1, 1], [1, 1], False, [0, 0], 1, list(mask))
        with torch.no_grad():
            out.append([best(lambda: F.conv2d(x, w, padding=1), rounds), best(lambda: back(True, False, False), rounds),
                        best(lambda: back(False, True, True), rounds)])
    return *map(min, *out), 2*9*batch*c_in*c_out*side**2

teacher = get_teacher(name, weights=None); total = operations = 0
for tap, before in zip(teacher.taps[1:], teacher.taps):
    if tap.name in teacher.convs:
        f, i, w, n = conv(before.channels, tap.channels, size//tap.stride)
        total += 2*f + i; operations += 3*n
strides = {t.name: t.stride for t in teacher.taps}
for s in mirror_plan(teacher.blocks):
    if s.kind == 'conv':
        f, i, w, n = conv(s.channels_in, s.channels_out, size//(strides[s.undoes]))
        total += f + i + w; operations += 3*n
print(f'convolutions alone {total*1e3:.0f} ms, {operations/total/1e9:.0f} billion operations a second; '
      f'the most to gain: {min(spent["strict"])/total:.2f} times', flush=True)

# Lavin and Gray, 2016
B = torch.tensor([[4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0],
                  [0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0], [0, 4, 0, -5, 0, 1.]])
G = torch.tensor([[1/4, 0, 0], [-1/6, -1/6, -1/6], [-1/6, 1/6, -1/6], [1/24, 1/12, 1/6], [1/24, -1/12, 1/6], [0, 0, 1]])
A = torch.tensor([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1.]])
B, G, A = (torch.kron(m, m) for m in (B, G, A))
def winograd_weight(w): return (G @ w.permute(2, 3, 1, 0).reshape(9, -1)).view(36, w.shape[1], w.shape[0])
def winograd(x, u):
    n, c, h, w = x.shape; x = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1)); s = x.stride()
    tiles = x.as_strided((6, 6, n, h//4, w//4, c), (s[1], s[2], s[0], 4*s[1], 4*s[2], s[3])).reshape(36, -1)
    y = A @ torch.bmm((B @ tiles).view(36, -1, c), u).view(36, -1)
    return y.view(4, 4, n, h//4, w//4, -1).permute(2, 5, 3, 0, 4, 1).reshape(n, -1, h, w)
for c, side in ((128, 8), (256, 16), (512, 8)):
    x, w = torch.randn(batch, c, side, side).to(memory_format=torch.channels_last), torch.randn(c, c, 3, 3)/(9*c)**.5
    with torch.no_grad():
        u, want = winograd_weight(w), F.conv2d(x, w, padding=1)
        print(f'{c} channels, {side} x {side}: direct {conv(c, c, side)[0]*1e3:.1f} ms, '
              f'Winograd {best(lambda: winograd(x, u), rounds)*1e3:.1f} ms and '
              f'{best(lambda: winograd_weight(w), rounds)*1e3:.1f} ms for its weights; '
              f'they differ by {((winograd(x, u) - want).norm()/want.norm()).item():.1e}', flush=True)
