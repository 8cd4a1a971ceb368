"""Reads problems of every kind back from their words: an account of the sentence patterns that shares nothing with the generator."""

import re

L, N, T = r"([BDFHKMPRTW])", r"(-?\d+)", r"((?:t\d[ab])(?:(?:, | and )t\d[ab])*)"
DIGITS = r"(\d(?:(?:, | and )\d)*)"
M = r"(u\d)"

# Sentence, after the domain's words were replaced by capitals -> fact. \1 and so on; lists become arguments.
SENTENCES = {
    "ordering": [
        (rf"{L} ABOVE {L}\.", r"above(\1,\2)"),
        (rf"{L} BELOW {L}\.", r"above(\2,\1)"),
        (rf"It is {L} that ABOVE {L}\.", r"above(\1,\2)"),
        (rf"We know that {L} BELOW {L}\.", r"above(\2,\1)"),
    ],
    "comparison": [
        (rf"{L} HAS {N}(?: UNITS)?\.", r"value(\1,\2)"),
        (rf"It is {N} that {L} HAS\.", r"value(\2,\1)"),
        (rf"As for {L}, it HAS {N}\.", r"value(\1,\2)"),
    ],
    "arithmetic": [
        (rf"{L} HAS {N}(?: UNITS)?\.", r"value(\1,\2)"),
        (rf"It is {N} that {L} HAS\.", r"value(\2,\1)"),
        (rf"As for {L}, it HAS {N}\.", r"value(\1,\2)"),
        (rf"{L} HAS {N} (more|fewer) than {L}\.", r"\3(\1,\4,\2)"),
        (rf"It is {N} (more|fewer) than {L} that {L} HAS\.", r"\2(\4,\3,\1)"),
        (rf"Against {L}, {L} HAS {N} (more|fewer)\.", r"\4(\2,\1,\3)"),
    ],
    "rules": [
        (rf"(?:Usually|But|Except) {T} (?:means|calls for) {L}\.", r"rule(#,\1,\2)"),
        (rf"(?:Usually|But|Except) the PLACE for {T} is {L}\.", r"rule(#,\1,\2)"),
        (rf"(?:The NOUN |Now |){L} is {T}\.", r"each(\1,\2)"),
        (rf"We have {L}, which is {T}\.", r"each(\1,\2)"),
    ],
    "selection": [
        (rf"(?:The NOUN |We know that |){L} is {T}\.", r"each(\1,\2)"),
        (rf"As for {L}, it is {T}\.", r"each(\1,\2)"),
    ],
    "counting": [
        (rf"So far {N} NOUNS were {T}\.", r"before(\2,\1)"),
        (rf"We had {N} {T} NOUNS\.", r"before(\2,\1)"),
        (rf"Up to now {N} {T} NOUNS were counted\.", r"before(\2,\1)"),
        (rf"There were {N} NOUNS that were {T}\.", r"before(\2,\1)"),
        (rf"(?:Next, |The NOUN |){L} is {T}\.", r"each(\1,\2)"),
        (rf"Then comes {L}, which is {T}\.", r"each(\1,\2)"),
    ],
    "deductive": [
        (rf"{L} belongs to group {L}\.", r"member(\1,\2)"),
        (rf"To group {L} belongs {L}\.", r"member(\2,\1)"),
        (rf"We know that {L} is in group {L}\.", r"member(\1,\2)"),
        (rf"The NOUN {L} is one of group {L}\.", r"member(\1,\2)"),
        (rf"Every NOUN of group {L} belongs to group {L}\.", r"sub(\1,\2)"),
        (rf"Whatever is in group {L} is in group {L}\.", r"sub(\1,\2)"),
        (rf"To group {L} belongs all of group {L}\.", r"sub(\2,\1)"),
        (rf"All NOUNS of group {L} are in group {L}\.", r"sub(\1,\2)"),
        (rf"No NOUN of group {L} belongs to group {L}\.", r"apart(\1,\2)"),
        (rf"Nothing in group {L} is in group {L}\.", r"apart(\1,\2)"),
        (rf"Group {L} excludes all of group {L}\.", r"apart(\2,\1)"),
        (rf"None of the NOUNS of group {L} are in group {L}\.", r"apart(\1,\2)"),
    ],
    "inductive": [
        (r"One contrast alone decides the PLACE: ([^.]*)\.", r"either(\1)"),
        (r"The PLACE depends on a single contrast, which is one of these: ([^.]*)\.", r"either(\1)"),
        (r"Only one of these contrasts tells the PLACE: ([^.]*)\.", r"either(\1)"),
        (rf"Case {N} is {T} and has PLACE {L}\.", r"case(\1,\2,\3)"),
        (rf"In case {N}, {T} went with PLACE {L}\.", r"case(\1,\2,\3)"),
        (rf"The PLACE of case {N}, which is {T}, is {L}\.", r"case(\1,\2,\3)"),
        (rf"Case {N}: {T}, PLACE {L}\.", r"case(\1,\2,\3)"),
        (rf"(?:Now |The new NOUN |){L} is {T}\.", r"has(\1,\2)"),
    ],
    "abductive": [
        (rf"Cause {L} makes a NOUN {T}\.", r"makes(\1,\2)"),
        (rf"A NOUN with cause {L} is {T}\.", r"makes(\1,\2)"),
        (rf"From cause {L} a NOUN becomes {T}\.", r"makes(\1,\2)"),
        (rf"The effect of cause {L} is {T}\.", r"makes(\1,\2)"),
        (rf"(?:We see that |As seen, |){L} is {T}\.", r"seen(\1,\2)"),
        (rf"The NOUN {L} turned out {T}\.", r"seen(\1,\2)"),
        (rf"(?:We see that |As seen, |){L} is not {T}\.", r"unseen(\1,\2)"),
        (rf"The NOUN {L} did not turn out {T}\.", r"unseen(\1,\2)"),
    ],
    "sets": [
        (rf"{L} HAS UNITS {DIGITS}\.", r"holds(\1,\2)"),
        (rf"The UNITS that {L} HAS are {DIGITS}\.", r"holds(\1,\2)"),
        (rf"As for {L}, it HAS {DIGITS}\.", r"holds(\1,\2)"),
        (rf"It is {DIGITS} that {L} HAS\.", r"holds(\2,\1)"),
    ],
    "scheduling": [
        (rf"(?:The JOB |){L} takes {N} minutes\.", r"takes(\1,\2)"),
        (rf"It takes {N} minutes to do {L}\.", r"takes(\2,\1)"),
        (rf"Allow {N} minutes for {L}\.", r"takes(\2,\1)"),
        (rf"{L} waits for {L}\.", r"after(\1,\2)"),
        (rf"{L} must be done before {L} begins\.", r"after(\2,\1)"),
        (rf"The JOB {L} cannot begin until {L} is done\.", r"after(\1,\2)"),
        (rf"Only after {L} comes {L}\.", r"after(\2,\1)"),
    ],
    "causal": [
        (rf"(?:We know that |){L} CAUSES {L}\.", r"causes(\1,\2)"),
        (rf"It is {L} that CAUSES {L}\.", r"causes(\1,\2)"),
        (rf"What {L} CAUSES is {L}\.", r"causes(\1,\2)"),
        (rf"(?:It is known that |Here |){L} happens\.", r"happens(\1)"),
        (rf"This time {L} does happen\.", r"happens(\1)"),
        (rf"(?:It is known that |Here |){L} is prevented\.", r"prevented(\1)"),
        (rf"This time {L} is kept from happening\.", r"prevented(\1)"),
    ],
    "conversion": [
        (rf"One {M} is {N} {M}s\.", r"rate(\1,\2,\3)"),
        (rf"Each {M} makes {N} {M}s\.", r"rate(\1,\2,\3)"),
        (rf"There are {N} {M}s to a {M}\.", r"rate(\3,\1,\2)"),
        (rf"It takes {N} {M}s to make one {M}\.", r"rate(\3,\1,\2)"),
        (rf"(?:The NOUN |){L} amounts to {N} {M}s\.", r"amount(\1,\2,\3)"),
        (rf"We put {L} at {N} {M}s\.", r"amount(\1,\2,\3)"),
        (rf"For {L} we count {N} {M}s\.", r"amount(\1,\2,\3)"),
    ],
    "probability": [
        (rf"In PLACE {L} there are {N} {T} and {N} {T} NOUNS\.", r"mix(\1,\2,\3,\4,\5)"),
        (rf"The PLACE {L} has {N} {T} NOUNS and {N} {T} ones\.", r"mix(\1,\2,\3,\4,\5)"),
        (rf"Of the NOUNS in PLACE {L}, {N} are {T} and {N} are {T}\.", r"mix(\1,\2,\3,\4,\5)"),
        (rf"There are {N} {T} NOUNS in PLACE {L}, and {N} {T} ones\.", r"mix(\3,\1,\2,\4,\5)"),
    ],
    "geometry": [
        (rf"(?:The NOUN |){L} (?:is|lies) {N} blocks (\w+) of {L}\.", r"\3(\1,\4,\2)"),
        (rf"Go {N} blocks (\w+) from {L} to reach {L}\.", r"\2(\4,\3,\1)"),
        (rf"From {L}, {L} is {N} blocks (\w+)\.", r"\4(\2,\1,\3)"),
    ],
}


def coded(text, words):
    """The text with the domain's words as capitals and codes."""
    table = {words.noun: "NOUN", words.nouns: "NOUNS", words.above: "ABOVE", words.below: "BELOW", words.has: "HAS"}
    table |= {words.units: "UNITS", words.place: "PLACE", words.job: "JOB", words.causes: "CAUSES"}
    table |= {word: f"t{i}{'ab'[j]}" for i, pair in enumerate(words.traits) for j, word in enumerate(pair)}
    table |= {word: f"u{i}" for i, word in enumerate(words.measures)}
    table |= {f"{word}s": f"u{i}s" for i, word in enumerate(words.measures)}
    return re.sub(r"\b[a-z]+\b", lambda match: table.get(match[0], match[0]), text)


def facts_and_question(kind, problem, words):
    """(facts as the DAG states them, in order, and what is left of the text: the question)."""
    rest, facts, rules = coded(problem, words), [], 0
    while True:
        found = None
        for pattern, fact in SENTENCES[kind]:
            if match := re.match(pattern, rest):
                assert found is None, f"two readings of {rest!r}"
                found = match, match.expand(fact)
        if found is None:
            return facts, rest
        match, text = found
        rest = rest[match.end() :].strip()
        text = re.sub(r",? and |, | or |; ", ",", text)
        if "#" in text:
            text, rules = text.replace("#", str(rules)), rules + 1
        if text.startswith("either("):
            pairs = re.findall(r"(t\d)a,t\db", text)
            facts.append(f"either({','.join(pairs)})")
        elif text.startswith("each("):
            label, *traits = text[5:-1].split(",")
            facts += [f"is({label},{trait})" for trait in traits]
        elif kind == "sets" and not text[6].isalpha():  # the digits came first
            *digits, label = text[6:-1].split(",")
            facts.append(f"holds({label},{','.join(digits)})")
        else:
            facts.append(text)


QUESTIONS = {
    "ordering": [(rf"(?:Which NOUN is|Find the NOUN|Go|Name the NOUN that stands) (\w+) (up|down) from {L}", r"place(\3,\2\1)")],
    "comparison": [
        (r"(?:Of|Among) ([^.?]*), (?:which NOUN|find who) HAS the (most|fewest) UNITS", r"\2(\1)"),
        (r"Which of ([^.?]*) HAS the (most|fewest) UNITS", r"\2(\1)"),
        (r"Compare ([^.?:]*): whose number of UNITS is the (most|fewest)", r"\2(\1)"),
    ],
    "rules": [(rf"(?:Which PLACE is for|Find the PLACE for|Where does|Name the PLACE of) {L}", r"place(\1)")],
    "selection": [(rf"(?:Which NOUN is|Find the NOUN that is|Only one NOUN is|Name the NOUN that is) {T}", r"which(\1)")],
    "counting": [
        (rf"(?:How many|Tell the number of) {T} NOUNS now", r"count(\1)"),
        (rf"(?:Count all NOUNS that|How many NOUNS) are {T}", r"count(\1)"),
    ],
    "arithmetic": [
        (rf"How many UNITS does NOUN {L} \w+\?", r"value(\1)"),
        (rf"(?:Find|Tell) how many UNITS (?:the NOUN |){L} HAS", r"value(\1)"),
        (rf"What number of UNITS is it that {L} HAS", r"value(\1)"),
    ],
    "deductive": [
        (rf"(?:Does|Say whether) NOUN {L} belongs? to group {L}", r"in(\1,\2)"),
        (rf"Is (?:the )?NOUN {L} (?:in|one of) group {L}", r"in(\1,\2)"),
    ],
    "inductive": [(rf"(?:Which PLACE is for|Find the PLACE for|Where does|Name the PLACE of) {L}", r"place(\1)")],
    "abductive": [(rf"(?:Which|Find|What|Name)[^.?]* one cause (?:is )?behind {L}", r"cause(\1)")],
    "sets": [
        (rf"(?:Take|Start with|Of) the UNITS (?:of|that) {L}(?: HAS,|;) (.*)\. (?:Which one is left|Name the one left|What is the only one then)", r"left(\1,\2)"),
        (rf"Look at what {L} HAS; (.*)\. Which number is left", r"left(\1,\2)"),
    ],
    "scheduling": [(rf"(?:minute is|minute at which|When is|minutes is) {L} (?:is )?done", r"done(\1)")],
    "causal": [(rf"(?:Does|Say whether|Is it so that|Will) {L} happens?", r"does(\1)")],
    "conversion": [
        (rf"How many {M}s is {L}\?", r"convert(\2,\1)"),
        (rf"Give {L} in {M}s\.", r"convert(\1,\2)"),
        (rf"To how many {M}s does {L} amount\?", r"convert(\2,\1)"),
        (rf"Find the number of {M}s for {L}\.", r"convert(\2,\1)"),
    ],
    "probability": [
        (rf"from (?:each of )?PLACE ([A-Z](?:(?:, | and )[A-Z])*)\b.* (all are|none are|it is not|it is) {T}[.?]", r"\2(\3,\1)")
    ],
    "geometry": [(rf"(?:are the NOUNS|from NOUN) {L} (?:and|to) {L}[,.?]", r"apart(\1,\2)")],
}  # fmt: skip
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six")


def goal(kind, question):
    """The goal as the DAG states it, from a coded question."""
    (found,) = {m.expand(goal) for pattern, goal in QUESTIONS[kind] if (m := re.search(pattern, question, re.I))}
    if kind == "sets":
        for said, code in (
            (rf"keep only those that {L} HAS too", r"keep,\1"),
            (rf"add those that {L} HAS", r"add,\1"),
            (rf"drop those that {L} HAS", r"drop,\1"),
        ):
            found = re.sub(said, code, found)
    if kind == "ordering":
        start, sign, number = re.fullmatch(r"place\((.),(up|down)(\w+)\)", found).groups()
        return f"place({start},{'+' if sign == 'up' else '-'}{NUMBERS.index(number)})"
    for said, code in (("all are(", "all("), ("it is(", "all("), ("none are(", "none("), ("it is not(", "none(")):
        if found.startswith(said):
            found = code + found[len(said) :]
    return re.sub(r",? and |, |; ", ",", found)
