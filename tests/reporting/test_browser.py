"""Pages in Chromium: nothing wider than a phone, and no barrier that axe finds, light and dark.

Runs where Chromium is installed; DELT_AXE names the file axe.min.js of the npm package axe-core.
"""

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import test_page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
AXE = os.environ.get("DELT_AXE", "")
WIDTHS = (390, 800, 1400)
# Frames of every width; each says how wide its page became and what axe found in it.
LOOK = """
<!doctype html><meta charset="utf-8"><body><script>
const page = %s, axe = %s, found = {};
addEventListener("load", async () => {
  for (const width of %s) {
    const frame = document.createElement("iframe");
    frame.width = width; frame.height = 900; frame.srcdoc = page;
    document.body.append(frame);
    await new Promise((done) => (frame.onload = done));
    const inner = frame.contentWindow, root = frame.contentDocument.documentElement;
    found[width] = { wide: root.scrollWidth, axe: [] };
    found[width].dark = inner.matchMedia("(prefers-color-scheme: dark)").matches;
    if (axe) {
      inner.eval(axe);
      const { violations } = await inner.axe.run(frame.contentDocument);
      found[width].axe = violations.map((v) => [v.id, v.impact, v.nodes[0].html]);
    }
    frame.remove();
  }
  const out = document.createElement("output");
  out.textContent = JSON.stringify(found);
  document.body.append(out);
});
</script></body>
"""


def looked_at(text: str, folder: Path, dark: bool) -> dict[str, dict]:
    axe = Path(AXE).read_text(encoding="utf-8") if AXE else ""
    in_script = [json.dumps(each).replace("</", "<\\/") for each in (text, axe)]
    (folder / "look.html").write_text(LOOK % (*in_script, list(WIDTHS)), encoding="utf-8")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += [f"--user-data-dir={folder}/profile", "--virtual-time-budget=60000"]
    command += ["--blink-settings=preferredColorScheme=" + ("0" if dark else "1")]
    done = subprocess.run(
        [*command, (folder / "look.html").as_uri()], capture_output=True, text=True, timeout=120
    )
    (said,) = re.findall(r"<output>(.*?)</output>", done.stdout, re.DOTALL)
    return json.loads(html.unescape(said))


@pytest.mark.skipif(not CHROMIUM, reason="Chromium is not installed")
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("made", [test_page.full, test_page.learned, test_page.compared])
def test_pages_fit_every_screen_and_have_no_barrier(made, dark, tmp_path):
    for width, found in looked_at(made(), tmp_path, dark).items():
        assert found["wide"] <= int(width)
        assert found["dark"] == dark
        assert [each for each in found["axe"] if each[1] != "minor"] == [], width
