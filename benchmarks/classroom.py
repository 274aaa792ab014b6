#!/usr/bin/env python3
"""How quick is the classroom page, and what do thirty people at once need?
`python benchmarks/classroom.py [PAGES] [MODEL]`.

Starts `sdn_demo` and a Chromium without network on the same machine, and measures
1. seconds from the command to the first picture;
2. milliseconds from a click on a tap, a channel or a level to the new picture, 30 clicks each;
3. milliseconds from a key in the Playground to the new picture, 30 keys;
4. PAGES pages open, everybody types captions at the same time, a letter every 150 ms: from the last key of a
   caption to its picture; and what memory the server's processes own.
5. the same as 4 without a browser: PAGES clients open a page each and speak to its kernel as the browser does,
   one change under way at a time. That is what the server needs when thirty tablets do the drawing.
Times of 1 to 4 are taken inside the page, from the browser's own event to the frame after the new picture is
decoded. Server and browser share the processor: on two cores a large part of 4 is the browser's own work.
"""
import asyncio, json, re, shutil, signal, statistics, subprocess, sys, time, uuid
from pathlib import Path

PORT, WORDS = 8899, ['a red car', 'a blue heart', 'a yellow star', 'a green leaf', 'a cat face', 'an orange cat']
CLOCK = """() => {
    window.asked = 0; window.seen = 0;
    for (const e of ['click', 'keydown', 'change']) document.addEventListener(e, () => { window.asked = performance.now(); window.seen = 0; }, true);
    new MutationObserver(ms => { if (ms.some(m => [...m.addedNodes].some(n => n.nodeName === 'IMG' || n.querySelector?.('img'))))
        for (const i of document.querySelectorAll('.sdn-page img')) if (i.offsetParent) i.decode().then(() => requestAnimationFrame(() => { window.seen = performance.now(); })); }).observe(document.querySelector('.sdn-page'), {subtree: true, childList: true});
}"""


def family(pid):
    "A process and everything below it."
    try: below = [int(p) for t in Path(f'/proc/{pid}/task').iterdir() for p in (t/'children').read_text().split()]
    except OSError: below = []
    return [pid, *(q for p in below for q in family(p))]


def share(pid):
    "Megabytes that this process is to be charged with: shared memory is divided among those who share it."
    try:
        return next(int(l.split()[1]) for l in Path(f'/proc/{pid}/smaps_rollup').read_text().splitlines()
                    if l.startswith('Pss:'))/1024
    except (OSError, StopIteration): return 0.


def memory(pid): return sum(map(share, family(pid)))


def told(name, ms, unit='ms'):
    q = statistics.quantiles(ms, n=20)
    print(f'{name}: {len(ms)} answers, median {q[9]:.0f} {unit}, p95 {q[18]:.0f} {unit}, '
          f'longest {max(ms):.0f} {unit}', flush=True)


async def answer(page):
    "Milliseconds from the last event to the picture that came after it."
    await page.wait_for_function('window.seen > window.asked && window.asked > 0')
    return await page.evaluate('window.seen - window.asked')


class Client:
    "A page without a browser: its kernel's websocket, and the caption's widget."
    async def open(self):
        from tornado.httpclient import AsyncHTTPClient
        from tornado.websocket import websocket_connect
        page = (await AsyncHTTPClient().fetch(f'http://127.0.0.1:{PORT}/', request_timeout=300)).body.decode()
        kernel = re.search('"kernelId": *"([^"]+)"', page)[1]
        self.socket = await websocket_connect(
            f'ws://127.0.0.1:{PORT}/api/kernels/{kernel}/channels', max_message_size=10**9)
        self.send('comm_open', comm_id='control', target_name='jupyter.widget.control', data={})
        self.send('comm_msg', comm_id='control', data=dict(method='request_states'))
        while True:
            data = (await self.read())['content'].get('data', {})
            if isinstance(data, dict) and data.get('method') == 'update_states': break
        self.caption, = (i for i, m in data['states'].items()
                         if m['state'].get('_model_name') == 'TextModel' and m['state'].get('description') == 'caption')
        return self
    def send(self, kind, **content):
        id = uuid.uuid4().hex
        header = dict(msg_id=id, username='', session='clients', msg_type=kind, version='5.3',
                      date=time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime()))
        self.socket.write_message(json.dumps(dict(
            header=header, parent_header={}, metadata=dict(version='1.0.0'), content=content,
            channel='shell', buffers=[])))
        return id
    async def read(self):
        while True:
            m = await self.socket.read_message()
            if m is None: raise ConnectionError('the server has closed the connection')
            if isinstance(m, str): return json.loads(m)
    async def type_in(self, word):
        "Seconds from the last key to its picture."
        typed, busy, sent, last = '', None, None, None
        async def keys():
            nonlocal typed, last
            for k in range(len(word)): typed = word[:k + 1]; last = time.monotonic(); push(); await asyncio.sleep(.15)
        def push():
            nonlocal busy, sent
            if busy is None and typed != sent:
                sent = typed
                busy = self.send('comm_msg', comm_id=self.caption,
                                 data=dict(method='update', state=dict(value=typed), buffer_paths=[]))
        job = asyncio.ensure_future(keys())
        while True:
            m = await self.read(); c = m['content']
            if m['parent_header'].get('msg_id') == busy and c.get('execution_state') == 'idle': busy = None; push()
            value = ((c.get('data') or {}).get('state', {}).get('value')
                     if m['header']['msg_type'] == 'comm_msg' else None)
            if isinstance(value, str) and f'drawn for: {word}.' in value:
                await job
                return time.monotonic() - last - .15


async def clients(n, server):
    start = time.monotonic(); some = []
    for k in range(0, n, 3): some += await asyncio.gather(*(Client().open() for _ in range(min(3, n - k))))
    print(f'{n} pages opened without a browser: {time.monotonic() - start:.0f} s; '
          f'memory {memory(server.pid):,.0f} MB', flush=True)
    answers = []
    async def typing(client, k):
        for word in WORDS[k % 6:] + WORDS[:k % 6]:
            answers.append(1000*await client.type_in(word)); await asyncio.sleep(2.5)
    await asyncio.gather(*(typing(c, k) for k, c in enumerate(some)))
    assert len(answers) == 6*n
    told(f'last key of a caption, {n} pages at once, without a browser', answers)


async def main(n, model):
    from playwright.async_api import async_playwright
    started = time.monotonic()
    server = subprocess.Popen([
        sys.executable, '-c', f"from sdn_lite.cli import sdn_demo; sdn_demo(['--no-browser', '--port', '{PORT}'"
                              f"{f', {chr(39)}--model{chr(39)}, {model!r}' if model else ''}])"])
    try:
        async with async_playwright() as p:
            browser = await p.chromium.launch(executable_path=shutil.which('chromium'), args=[
                '--headless', '--no-sandbox', '--disable-gpu', '--disable-background-networking',
                '--disable-renderer-backgrounding', '--disable-backgrounding-occluded-windows',
                '--disable-background-timer-throttling'])
            async def visit():
                page = await (await browser.new_context()).new_page(); page.set_default_timeout(300_000)
                while server.poll() is None:
                    try: await page.goto(f'http://127.0.0.1:{PORT}/'); break
                    except Exception: await asyncio.sleep(.1)
                await page.locator('.sdn-page img:visible').first.wait_for()
                return page
            page = await visit()
            print(f'from the command to the first picture: {time.monotonic() - started:.1f} s; '
                  f'memory {memory(server.pid):,.0f} MB', flush=True)
            print((await page.get_by_text('reads your caption').inner_text()).splitlines()[-1])
            await page.evaluate(CLOCK)
            async def clicks(name, targets):
                ms = []
                for k in range(30):
                    await targets[k % len(targets)].click()
                    ms.append(await answer(page)); await asyncio.sleep(.2)
                told(name, ms)
            await page.get_by_role('tab', name='Look inside').click()
            await page.locator('.sdn-page img:visible').nth(1).wait_for(); await asyncio.sleep(1)
            taps = [t for name in ('conv1_1', 'conv2_2', 'pool3', 'conv4_3', 'conv5_4', 'pool5')
                    for t in [page.locator(f'.sdn-tap:visible:has-text("{name}")')]]
            await clicks('click on a tap of the teacher', [t.nth(0) for t in taps])
            await clicks('click on a channel', [
                page.locator('.widget-toggle-buttons:visible:has-text("channel") button').nth(k)
                for k in (1, 2, 3, 4, 5)])
            await clicks('click on a tap of both', [t.nth(1) for t in taps])
            await page.get_by_role('tab', name='Ablate').click()
            await page.get_by_label('mid', exact=True).wait_for(); await asyncio.sleep(1)
            await clicks('click on a level',
                         [page.get_by_label(name, exact=True) for name in ('mid', 'mid', 'high', 'high')])
            await page.get_by_role('tab', name='Play').click()
            box = page.get_by_label('caption', exact=True); await box.fill(''); await asyncio.sleep(1)
            ms = []
            for c in 'ahappyreddragonwithagreenhat':
                await box.press_sequentially(c); ms.append(await answer(page)); await asyncio.sleep(.2)
            told('key in the Playground', ms)
            pages, start = [page], time.monotonic()
            for k in range(1, n, 3): pages += await asyncio.gather(*(visit() for _ in range(min(3, n - k))))
            print(f'{n - 1} more pages: {time.monotonic() - start:.0f} s; memory {memory(server.pid):,.0f} MB',
                  flush=True)
            for page in pages[1:]: await page.evaluate(CLOCK)
            answers = []
            async def type_in(page, k):
                box = page.get_by_label('caption', exact=True)
                for word in WORDS[k % 6:] + WORDS[:k % 6]:
                    await box.fill(''); await asyncio.sleep(.5)
                    await box.press_sequentially(word, delay=150); start = await page.evaluate('window.asked')
                    await page.wait_for_function(
                        'word => document.querySelector(".sdn-page img").alt.includes(`drawn for: ${word}.`)', arg=word)
                    await page.wait_for_function('window.seen > 0')
                    answers.append(await page.evaluate('start => window.seen - start', start)); await asyncio.sleep(2)
            start = time.monotonic(); await asyncio.gather(*(type_in(page, k) for k, page in enumerate(pages)))
            assert len(answers) == 6*n
            told(f'last key of a caption, {n} pages at once', answers)
            print(f'memory {memory(server.pid):,.0f} MB; {time.monotonic() - start:.0f} s of typing')
            await browser.close(); await asyncio.sleep(15)                         # its kernels end
            await clients(n, server)
    finally: server.send_signal(signal.SIGINT); server.wait(60)


if __name__ == '__main__':
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 30, sys.argv[2] if len(sys.argv) > 2 else None))
