#!/usr/bin/env python3
"""What a large folder costs: memory of `load_folder`, and pictures read in a second.

    python benchmarks/folder.py [rows, default 1000000]

Memory: the table has that many rows, each with its own file name, a link to one of 20 pictures, and its own caption.
Speed: JPEG files of 500 x 375 pixels, as the birds have, made of a photograph that comes with matplotlib,
read and resized to 64 px through a DataLoader. Prints one JSON line each.
"""
import json, subprocess, sys, tempfile, time
from pathlib import Path

def photograph():
    import matplotlib.cbook as cbook
    from PIL import Image
    return Image.open(cbook.get_sample_data('grace_hopper.jpg')).convert('RGB').resize((500, 375))

def make(folder, rows, real=20):
    "A folder with `rows` file names, all links to `real` pictures."
    folder.mkdir(); picture = photograph()
    for k in range(real): picture.rotate(k).save(folder/f'real_{k}.jpg', quality=90)
    with open(folder/'metadata.csv', 'w') as f:
        f.write('file_name,text\n')
        for k in range(rows):
            (folder/f'{k:07}.jpg').symlink_to(f'real_{k % real}.jpg')
            f.write(f'{k:07}.jpg,picture number {k} of a photograph that was turned a little\n')
    return folder

MEMORY = '''
import resource, sys, time, json
from sdn_lite.data import load_folder
start = time.monotonic(); ds = load_folder(sys.argv[1]); ds[len(ds) - 1]
now = int(next(l for l in open('/proc/self/status') if l.startswith('VmRSS')).split()[1])/1e3
print(json.dumps(dict(rows=len(ds), seconds=round(time.monotonic() - start, 1), now_mb=round(now), peak_mb=round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1e3))))
'''

def speed(folder, workers, n=6000):
    from torch.utils.data import DataLoader, Subset
    from sdn_lite.data import load_folder
    ds = load_folder(folder)
    loader = DataLoader(Subset(ds, range(n)), batch_size=64, num_workers=workers)
    batches = iter(loader); next(batches)                        # the workers have started
    start = time.monotonic(); seen = sum(len(b['image']) for b in batches)
    return round(seen/(time.monotonic() - start))

if __name__ == '__main__':
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with tempfile.TemporaryDirectory() as tmp:
        folders = [make(Path(tmp)/str(n), n) for n in (1000, 6000, rows)]
        for folder in folders[::2]:
            print(subprocess.run([sys.executable, '-c', MEMORY, str(folder)], capture_output=True, text=True,
                                 check=True).stdout.strip(), flush=True)
        print(json.dumps({f'pictures_a_second_{w}_workers': [speed(folders[1], w) for _ in range(5)] for w in (0, 2)}))
