"""LaTeX commands that JSON's escapes would swallow, for :mod:`.json_text`."""

_B_TO_T = """
backepsilon backprime backsim backslash bar barwedge Bbb because begin beta beth between bf bfseries big bigcap
bigcirc bigcup bigg biggl biggr bigl bigodot bigoplus bigotimes bigr bigsqcup bigstar bigtriangledown bigtriangleup
biguplus bigvee bigwedge binom blacklozenge blacksquare blacktriangle bm bmatrix bmod boldsymbol bot bowtie box boxed
boxdot boxplus boxtimes bra breve bullet bumpeq fallingdotseq fbox flat floor footnote forall frac frak frown nabla
natural ncong nearrow neg neq newcommand newline ngeq ngeqslant ngtr nleftarrow nleq nleqslant nmodels noindent
nolimits nonumber normalfont normalsize not notag notin nparallel nprec npreceq nrightarrow nRightarrow nsim nsubseteq
nsucc nsucceq nsupseteq ntriangleleft ntriangleright nvdash nvDash nwarrow raisebox rangle rbrace rbrack rceil relax
renewcommand rfloor rho right rightarrow rightharpoondown rightharpoonup rightleftarrows rightleftharpoons
risingdotseq rm rmoustache rtimes rule rVert rvert tag tau tbinom tt tilde texorpdfstring text textbf textcolor textit
textnormal textrm textsc textsf textstyle texttt textup tfrac therefore theta thetasym thickapprox thicksim thinspace
tiny times triangle triangledown triangleleft trianglelefteq triangleq triangleright trianglerighteq twoheadleftarrow
twoheadrightarrow
"""
_U = """
ulcorner unboldmath underbrace underbracket underleftarrow underline underrightarrow underset unicode unit unlhd unrhd
uparrow updownarrow upharpoonleft upharpoonright uplus upsilon upuparrows urcorner url
"""
_WORDS_TOO = "ne nexists ni nless nmid nu tan tanh to top"

#: Begin with b, f, n, r or t: as JSON escapes, they would be read as control characters.
CONTROL = frozenset(_B_TO_T.split())
#: The same, but what the line break or tab leaves is a word or a variable ("nu", "to").
AMBIGUOUS = frozenset(_WORDS_TOO.split())
#: Begin with u, which JSON wants followed by four hexadecimal digits.
UNICODE = frozenset(_U.split())
