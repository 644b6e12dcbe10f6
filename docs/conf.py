"""Settings of Sphinx. The pages are put together by `docs/make_site.py`; `make docs` does both."""

project = "worldprobe"
copyright = "worldprobe contributors"
extensions = ["myst_parser"]
myst_enable_extensions = ["html_image"]
myst_heading_anchors = 4
html_theme = "furo"
html_title = "worldprobe"
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
html_static_path = ["site"]
html_css_files = ["site.css"]
