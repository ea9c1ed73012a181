"""Links inside the repository lead somewhere, anchors included."""

import os
import subprocess
import sys

import pytest

from tests.docs.pages import PAGES, ROOT, anchors, links
from tests.waiting import PATIENCE_SECONDS


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_and_anchors_exist(page):
    broken = []
    for target in links(page):
        path, _, anchor = target.partition("#")
        if path.startswith(("../reference/", "reference/")):  # generated: the site's build checks them
            continue
        file = page if not path else (page.parent / path).resolve()
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert broken == []


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    """Every link, anchor and page of the navigation; a warning is an error."""
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}  # of an announcement, printed by the theme
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    assert done.returncode == 0, done.stderr
    reference = (tmp_path / "site" / "reference" / "modeling_gadms.gallery" / "index.html").read_text()
    assert 'id="modeling_gadms.gallery.person_gallery.PersonGallery.search"' in reference
    assert "[`" not in reference and "<blockquote>" not in reference  # references and examples are converted
    results = (tmp_path / "site" / "results" / "index.html").read_text()
    assert 'src="../images/cost-growth.png"' in results
