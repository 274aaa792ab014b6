#!/usr/bin/env python3
"""Thirty people at once: `python benchmarks/classroom.py [PAGES]`.

Starts `sdn_demo`, opens PAGES pages in one Chromium, lets all of them type at the same time, and says how long the answers took and what memory the server's processes own.
The browser runs on the same machine, so on two cores most of the time is the browser's: the figures are an upper bound.
"""
import asyncio, os, shutil, signal, statistics, subprocess, sys, time
from pathlib import Path

PORT, WORDS = 8899, ['a red car', 'a blue heart', 'a yellow star', 'a green leaf', 'a cat face', 'an orange cat']


def family(pid):
    "A process and everything below it."
    try: below = [int(p) for t in Path(f'/proc/{pid}/task').iterdir() for p in (t/'children').read_text().split()]
    except OSError: below = []
    return [pid, *(q for p in below for q in family(p))]


def share(pid):
    "Megabytes that this process is to be charged with: shared memory is divided among those who share it."
    try: return next(int(l.split()[1]) for l in Path(f'/proc/{pid}/smaps_rollup').read_text().splitlines() if l.startswith('Pss:'))/1024
    except (OSError, StopIteration): return 0.


def memory(pid): return sum(map(share, family(pid)))


async def main(n):
    from playwright.async_api import async_playwright
    started = time.monotonic()
    server = subprocess.Popen([sys.executable, '-c', f"from sdn_lite.cli import sdn_demo; sdn_demo(['--no-browser', '--port', '{PORT}'])"])
    try:
        async with async_playwright() as p:
            browser = await p.chromium.launch(executable_path=shutil.which('chromium'), args=['--headless', '--no-sandbox', '--disable-gpu', '--disable-background-networking'])
            async def visit():
                page = await browser.new_page(); page.set_default_timeout(120_000)
                while server.poll() is None:
                    try: await page.goto(f'http://127.0.0.1:{PORT}/'); break
                    except Exception: await asyncio.sleep(.2)
                await page.locator('.sdn-page img:visible').first.wait_for()
                return page
            pages = [await visit()]; print(f'from the command to the first picture: {time.monotonic() - started:.1f} s; memory {memory(server.pid):,.0f} MB', flush=True)
            start = time.monotonic()
            for k in range(1, n, 3): pages += await asyncio.gather(*(visit() for _ in range(min(3, n - k))))
            print(f'{n - 1} more pages: {time.monotonic() - start:.0f} s; memory {memory(server.pid):,.0f} MB', flush=True)
            answers = []
            async def type_in(page, k):
                box, picture = page.locator('.sdn-page input[type=text]:visible').first, page.locator('.sdn-page img:visible').first
                for word in WORDS[k % 6:] + WORDS[:k % 6]:
                    before = await picture.get_attribute('src'); start = time.monotonic()
                    await box.fill(word); await box.press('Enter')
                    while await picture.get_attribute('src') == before and time.monotonic() - start < 60: await asyncio.sleep(.01)
                    answers.append(time.monotonic() - start); await asyncio.sleep(2)
            await asyncio.gather(*(type_in(page, k) for k, page in enumerate(pages)))
            q = statistics.quantiles(answers, n=20)
            print(f'{len(answers)} answers: median {q[9]:.2f} s, p95 {q[18]:.2f} s, longest {max(answers):.2f} s; memory {memory(server.pid):,.0f} MB', flush=True)
            await browser.close()
    finally: server.send_signal(signal.SIGINT); server.wait(30)


if __name__ == '__main__': asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 30))
