"""What a hostile model might write to have a browser run its script: each sets ``window.ran``, or would."""

RUN = "window.ran=1"
SHELLS = [
    "<script>{js}</script>",
    "<SCRIPT SRC=data:text/javascript,{js}></SCRIPT>",
    "<script type=module>{js}</script>",
    "</script><script>{js}</script>",
    "</style></title></textarea><script>{js}</script>",
    "<img src=x onerror={js}>",
    "<img src=x onerror='{js}'>",
    '"><img src=x onerror={js}>',
    "'><svg onload={js}>",
    "<svg><script>{js}</script></svg>",
    "<svg onload={js}>",
    "<svg><animate onbegin={js} attributeName=x dur=1s>",
    "<svg><a xlink:href='javascript:{js}'><text x=20 y=20>go</text></a></svg>",
    "<math><mtext></table><img src=x onerror={js}></mtext></math>",
    "<body onload={js}>",
    "<iframe srcdoc='<script>parent.{js}</script>'></iframe>",
    "<iframe src='javascript:parent.{js}'></iframe>",
    "<object data='data:text/html,<script>parent.{js}</script>'></object>",
    "<embed src='javascript:{js}'>",
    "<a href='javascript:{js}' autofocus onfocus={js}>x</a>",
    "<input autofocus onfocus={js}>",
    "<details open ontoggle={js}>x</details>",
    "<video><source onerror={js}></video>",
    "<audio src=x onerror={js}></audio>",
    "<style>@import 'javascript:{js}';</style><b onanimationstart={js}>",
    "<style>@keyframes k{{}}</style><b style='animation-name:k' onanimationstart={js}></b>",
    "<marquee onstart={js}>x</marquee>",
    "<meta http-equiv=refresh content='0;url=javascript:{js}'>",
    "<base href='javascript:{js}//'>",
    "<link rel=stylesheet href='javascript:{js}'>",
    "<form><button formaction='javascript:{js}' autofocus onfocus={js}>x</button></form>",
    "<template><script>{js}</script></template><img src=x onerror={js}>",
    "<noscript><p title='</noscript><img src=x onerror={js}>'>",
    "<!--><img src=x onerror={js}>-->",
    "<![CDATA[<img src=x onerror={js}>]]>",
    "<xss id=x tabindex=1 onfocus={js} autofocus></xss>",
    "${{{js}}}",
    "{{{{constructor.constructor('{js}')()}}}}",
    "[x](javascript:{js})",
    '![x](x"onerror="{js})',
]
WRAPS = [
    ("{}", "{}"),
    ("Here you are:\n\n```html\n{}\n```\nDone.", "Here you are:htmlCopy{}Done."),
    ("```{}\nx\n```", "{}Copyx"),
    ("~~~\n{}", "Copy{}"),
    ("Text before {} and after, \u202e\u0000 and more.",) * 2,
]
"""What stands around a text, and around it on the page, where a block of code has its language and a button."""


def payloads() -> list[tuple[str, str]]:
    """Return 200 texts, each with what the page must show of it."""
    texts = [shell.format(js=RUN) for shell in SHELLS]
    return [(before.format(text), after.format(text)) for text in texts for before, after in WRAPS]
