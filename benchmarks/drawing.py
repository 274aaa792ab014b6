#!/usr/bin/env python3
"""What does one picture of a widget cost? `python benchmarks/drawing.py`: processor time of this process,
one thread, median and range of 15 after one more.

`page`: what happens between a click and the bytes that go to the browser, with Pillow. `matplotlib`: the same
drawing by matplotlib, as PNG. `key`: a letter in the Playground, with text encoder, student and nearest picture.
"""
import os, statistics, time
os.environ['OMP_NUM_THREADS'] = '1'
import torch
from matplotlib import rcParams
from sdn_lite.classroom import materials, some
from sdn_lite.widgets import LevelMixer, Playground, SymmetryViewer, TeacherExplorer, png_of


def ms(work, rounds=15):
    out = []
    for k in range(rounds + 1): start = time.process_time(); work(k); out.append(1000*(time.process_time() - start))
    return f'{statistics.median(out[1:]):.0f} ({min(out[1:]):.0f} to {max(out[1:]):.0f})'


if __name__ == '__main__':
    torch.set_num_threads(1); rcParams['font.size'] = 12          # as on the classroom page
    m = materials(); ds, idxs = m.pictures, some(m.pictures, 24)
    captions, images = [ds.captions(i)[0] for i in idxs], ds.images(idxs)
    widgets = dict(
        Playground=Playground(m.t2i, m.nearest), TeacherExplorer=TeacherExplorer(m.teacher, images, captions),
        SymmetryViewer=SymmetryViewer(m.teacher, m.t2i.student, images, m.t2i.encoder(captions), captions),
        LevelMixer=LevelMixer())
    print(f'model {m.name}')
    for name, w in widgets.items():
        print(f'{name}: page {ms(lambda k: w.redraw())} ms, '
              f'matplotlib {ms(lambda k: png_of(w.draw(False).figure()))} ms', flush=True)
    w = widgets['Playground']
    print(f"key: {ms(lambda k: w.caption.set_trait('value', 'a small blue heart'[:k + 2]))} ms")
    w = widgets['TeacherExplorer']
    print(f"tap: {ms(lambda k: setattr(w.tower, 'picked', ('conv1_1', 'conv3_2', 'pool4', 'conv5_4')[k % 4]))} ms")
