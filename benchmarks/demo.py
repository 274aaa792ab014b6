#!/usr/bin/env python3
"""Measure the main job: train as `make demo` does, and judge the pictures.

    pip install 'sdn_lite[metrics]' psutil      # the judge, and memory
    python benchmarks/demo.py runs/measured [--seed 0] [more options of sdn_train]

Prints one JSON line: seconds from start to end of the command, peak memory in GB, and what the judge of
`sdn_lite.metrics` says of the first caption of each picture, for each split. The candidates are all 459 pictures
of the small subset.
With the folder of a finished run, only the judging is done.
"""
import contextlib, json, sys, time
from pathlib import Path
import torch

def watch(command):
    "Run `command`; seconds and peak memory in GB of it and its children."
    import psutil
    start, peak, p = time.monotonic(), 0, psutil.Popen(command)
    while p.poll() is None:
        with contextlib.suppress(psutil.Error):
            peak = max(peak, sum(q.memory_info().rss for q in [p, *p.children(recursive=True)]))
        time.sleep(.2)
    if p.returncode: sys.exit(p.returncode)
    return time.monotonic() - start, peak/1e9

def bytes_of(pictures):
    "Float `[N, 3, H, W]` in [0, 1] as pictures to look at: uint8 `[N, H, W, 3]`."
    from sdn_lite.metrics import as_bytes
    return as_bytes(pictures).permute(0, 2, 3, 1).numpy()

def judged(draw, subset='small'):
    "`draw(captions) -> float [N, 3, H, W]`, judged on every split."
    from sdn_lite.metrics import Retrieval, batches_of, get_network, load_splits
    splits, look = load_splits('emoji-small' if subset == 'small' else 'emoji', 64), get_network('efficientnet-lite0')
    find, out, first = Retrieval(torch.cat([look(b)[0] for ds in splits.values() for b in batches_of(ds)])), {}, 0
    for name, ds in splits.items():
        find.reset()
        find.add(torch.cat([look(b)[0] for b in batches_of(draw([ds[i]['caption'] for i in range(len(ds))]))]),
                 range(first, first + len(ds)))
        out[name] = find.result(); first += len(ds)
    return out

if __name__ == '__main__':
    if len(sys.argv) < 2 or sys.argv[1].startswith('-'): sys.exit(__doc__)
    folder, result = Path(sys.argv[1]), {}
    if not (folder/'model').is_dir():
        code = 'import sys; from sdn_lite.cli import sdn_train; sdn_train(sys.argv[1:])'
        result['seconds'], result['peak_gb'] = (
            round(x, 2) for x in watch([sys.executable, '-c', code, '--out', str(folder), *sys.argv[2:]]))
    from sdn_lite.pipeline import TextToImage
    from sdn_lite.stages import Run
    from sdn_lite.text import get_text_encoder
    run, t2i = Run(folder), TextToImage.from_pretrained(folder)
    result['Stage-II'] = judged(t2i.images)
    with torch.no_grad():
        stage1, enc = run.students()['Stage-I'], get_text_encoder(run.config.text)
        result['Stage-I'] = judged(lambda c: stage1(enc(c)).clamp(0, 1))
    print(json.dumps(result))
