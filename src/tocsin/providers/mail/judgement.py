"""What a mail server's refusal says about an address: one table and one function, for the relay's own answers and for
reports that come back. Pure.

A wrong «dead» loses a living person, and a wrong «alive» costs a mail. So words of policy, rate, quota and trouble go
before those of a dead address, of two codes that disagree the milder one counts, and doubt is `soft`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

# hard: the address does not exist. soft: it may work later, or nobody can tell. refused: the mail, its sender or a
# policy is at fault, and nothing is said about the address. "": no failure at all.
Judgement = Literal["hard", "soft", "refused", ""]

MILDEST: tuple[Judgement, ...] = ("refused", "soft", "hard")  # for the address

# RFC 3463 and its registry unless a vendor is named. Codes not listed are judged by class and subject.
EXACT: Mapping[str, Judgement] = {
    "5.1.1": "hard",  # no such mailbox
    "5.1.2": "hard",  # no such domain
    "5.1.6": "hard",  # moved, and nobody knows where to
    "5.1.10": "hard",  # the domain takes no mail (RFC 7505)
    "5.2.1": "hard",  # the mailbox is closed
    "5.2.2": "soft",  # full
    "5.2.3": "refused",  # the message is too long for this mailbox
    "5.1.7": "refused",  # the syntax of the sender's address
    "5.1.8": "refused",  # the domain of the sender's address
    "4.1.8": "refused",
    "4.7.0": "refused",  # Yahoo TSS04, Gmail 421-4.7.0: the sender is slowed down
    "4.7.28": "refused",  # Gmail: «unusual rate from your address»
    "4.3.4": "refused",  # the message is too big for the system
}
OUR_FAULT = ("3", "5", "6", "7")  # subjects: system, protocol, content, policy; not the address
NO_ROUTE = ("5.4.4", "5.4.0")  # Postfix says 5.4.4 of a domain that does not exist: its words decide

_GAP = r".{0,60}?"  # between two words of one sentence
_WHO = r"(?:user(?: ?id)?|recipient|mail ?box|account|addressee|address|alias|customer|person|destination)"
_NOT = r"(?:(?:does|do|did|is|was|has|can)(?: not|n'?t)|cannot|not|no longer|never)"


def _any(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(patterns), re.IGNORECASE)


# How much its sender may send in a second, an hour or a day: Amazon SES, Gmail, Exchange Online, SendGrid, cPanel.
OUR_LIMIT = _any(
    r"\bsending (?:\w+ ){0,2}(?:rate|limit|quota)|submission ?quota|message quota",
    r"your (?:daily|hourly|monthly|messaging|sending) (?:\w+ )?limits?\b",
    r"\bmax(?:imum)? (?:e-?mails|messages|defers and failures) per",
)
# Who sends, what is sent, or a policy: nothing about the address.
POLICY_WORDS = _any(
    r"\bspam|junk ?mail|unsolicited|\bbulk\b|virus|malware|phishing|\babus(?:e|ive)\b|complain",
    r"\bblock(?:ed|list|ing)\b|(?:black|block|deny) ?list|gr[ea]y ?list",
    r"\brbl\b|\bdnsbl\b|\bbanned\b|reputation|throttl",
    r"polic(?:y|ies)|access denied|\bspf\b|\bdkim\b|dmarc|reverse dns|\bptr\b|authenticat",
    r"relay(?:ing)? (?:not|access|is|denied|prohibited)",
    r"(?:unable|not permitted|not allowed|cannot|not) (?:to )?relay",
    rf"sender{_GAP}(?:reject|refus|deni|deny|block|unknown|invalid|verif|not (?:allowed|found|exist|accept))",
    r"(?:reject|refus|deni)\w*:? (?:the )?sender",
    r"(?:invalid|unknown|bad|forged) sender|accept(?:ing)? mail from|not verified",
    rf"\b(?:your|client|sending) (?:ip|host|server|domain)\b{_GAP}(?:reject|refus|deni|limit|listed)",
    r"your account",
    r"(?:\bfrom|return|envelope) (?:address|path)|prohibited",
    r"forbidden|restrict|(?:not |un)authori|not (?:permitted|allowed)",
    r"content (?:reject|filter|not|block|scan)|(?:due to|because of|message) content",
    r"(?:too|is) (?:large|big)\b|size (?:limit|exceed)|exceed\w* (?:the )?(?:\w+ ){0,2}message size",
    r"unusual rate|too (?:many|much) (?:mail|connections|recipients|invalid|bad)\b",
)
# The mailbox is there, and takes nothing just now.
LATER_WORDS = _any(
    rf"quota|(?:mail ?(?:box|folder)|inbox|account|storage|disk){_GAP}\bfull\b",
    r"full (?:mail ?box|inbox)|is full",
    rf"insufficient|resources|(?:not enough|out of|exceed\w*|reached){_GAP}(?:storage|space|disk)",
    rf"(?:mail ?box|account|user|recipient){_GAP}(?:exceed|over (?:the |its |disk )?(?:limit|size|allo)|allocat)",
    r"no (?:\w+ )?space",
    r"size of (?:the )?mailbox|too many messages|too (?:quickly|fast)",
    rf"(?:at|receiv\w*){_GAP}\brate\b|\brate\b{_GAP}(?:limit|exceed)",
    r"again later|(?:re)?try(?:ing)? later|temporar|deferred|currently (?:unavailable|disabled|not)",
)
# Machines between us and the mailbox.
NETWORK_WORDS = _any(
    r"time(?:d)?[ -]?out|connection (?:refused|reset|lost|closed|dropped)|lost connection|no route|unreachable",
    r"(?:can(?:no|')t|couldn'?t|could not|unable to) (?:connect|reach|establish|resolve)",
    r"not re(?:sponding|achable)",
    rf"\bloop|too many hops|hop count|(?:queue|retry){_GAP}(?:expired|too long|exceeded)|no answer|network",
    r"look ?up (?:fail|error|problem|time)|\bdns (?:error|fail|server|query|lookup)|name ?server:",
    r"delivery time expired|not be delivered within",
)
# Nobody is there, and nobody will be.
_ENDED = r"(?:invalid|disabled|deactivated|inactive|discontinued|closed|deleted|terminated|cancel+ed|removed)"
DEAD_WORDS = _any(
    rf"{_WHO}[^|]{{0,80}}?\bunknown\b(?! (?:error|reason|status|problem|host))|{_WHO}:? {_ENDED}",
    rf"{_WHO}[^|]{{0,40}}?\b(?:is|was|are|been|or|and)(?: currently)? {_ENDED}",
    rf"{_WHO}[^|]{{0,80}}?{_NOT} (?:currently )?(?:exist|(?:be )?found|known|valid|recogni|listed|active|here\b|our\b)",
    rf"{_WHO}[^|]{{0,80}}?{_NOT} (?:on this|local|an? (?:valid|known|active)|in (?:\w+ )?(?:director|our|the|this))",
    rf"{_NOT} have an? (?:\S+ ){{0,3}}(?:account|mail ?box|delivery point)|{_NOT} an? (?:\w+ )?{_WHO}",
    rf"(?:unknown|invalid|no such|non-?existent|obsolete) (?:\w+ ){{0,2}}?(?:{_WHO}|local|name\b)",
    rf"(?:unrout\w*|illegal|bad) (?:\w+ ){{0,2}}?(?:{_WHO}|local)",
    r"not our customer|moved without|no match(?:es)? (?:to|in)\b",
    rf"\bno (?:\w+ )?(?:mail ?box|user|account|recipient|person|one|entry)\b{_GAP}(?:here|name|exist|found|known)",
    rf"(?:cannot|can't|couldn't|could not) find{_GAP}{_WHO}|has left (?:us|the)|recipnotfound",
    r"no longer (?:works?|with us|employed|in (?:use|service)|valid|active|accept|receiv|available)",
    r"\b(?:host|domain)(?: name)?(?: \S+)? (?:is )?(?:unknown|not found|does not exist|no longer exists)",
    r"(?:unknown|no such|illegal|invalid|bad|non-?existent) (?:host|domain)",
    r"no (?:mx|mail) (?:record|exchange|host)|nxdomain",
)

# A recipient that is spoken of, and no more: `soft`, also where the code alone would say that it is about us.
DOUBT_WORDS = re.compile(rf"{_WHO}{_GAP}(?:unavailable|reject|refus|not accept|fail)", re.IGNORECASE)

_ENHANCED = re.compile(r"(?<![\d.])([245])\.(0{0,2}[0-7])\.(\d{1,3})(?!\.?\d)", re.ASCII)
# How Exchange Online says that a mailbox does not exist (Microsoft, «Use Directory-Based Edge Blocking»): no policy.
_NO_ENTRY = re.compile(r"(5\.4\.1\b.{0,300}?recipient address rejected): access denied", re.IGNORECASE | re.DOTALL)
_BASIC = re.compile(r"(?<![\w.+-])(421|45\d|5[0-5]\d)(?=$|[\s,;:#()<>-])", re.ASCII)
# Names in a refusal are no words of it: spam@example.com, https://block.example.com/policy.
_NAMES = re.compile(
    r"https?://\S{1,300}|[^\s<>@]{1,64}@[^\s<>@]{1,255}|\b(?:[\w-]{1,63}\.){1,8}[a-z]{2,12}\b", re.IGNORECASE
)
READ = 4000  # letters of a refusal that are read


def judge(status: str, words: str) -> tuple[Judgement, str]:
    """Return the severity of a failure, and the code that decided it: an enhanced one, else a basic one, else "".

    status: an enhanced code («Status» of a report), or "". words: what the server wrote, its codes included. Codes
    without a detail (5.0.0, 5.5.0, 550) say nothing by themselves: many reports have one and quote a 5.1.1.
    """
    words = words[:READ]
    codes = [f"{one}.{int(subject)}.{int(detail)}" for one, subject, detail in _ENHANCED.findall(f"{status} {words}")]
    basic = _BASIC.findall(words)
    failed = [one for one in codes if one[0] != "2"]
    if codes and not failed and not basic:
        return "", codes[0]
    votes = [(judged, one) for one in failed if (judged := _judge_code(one))]
    if not any(one[0] == "4" for one in failed):
        votes += [("soft", one) for one in basic if one[0] == "4"]
    named = next((one for one in failed if not one.endswith(".0")), (failed or basic or [""])[0])
    judged, code = min(votes, key=lambda vote: MILDEST.index(vote[0]), default=("", named))
    said = judge_words(words)
    if judged and said and not (said == "hard" and code in NO_ROUTE):
        return min(judged, said, key=MILDEST.index), code
    if judged or said:
        return said or judged, code
    ours = code[2:3] in OUR_FAULT and code[1:2] == "." and not DOUBT_WORDS.search(_read_sentence(words))
    return "refused" if ours else "soft", code


def _judge_code(code: str) -> Judgement:
    """Return what an enhanced code says by itself; "" for one whose words have to say it."""
    if code in EXACT:
        return EXACT[code]
    kind, subject, detail = code.split(".")
    if subject == "7":
        return "refused"
    if kind == "4":
        return "soft"
    if detail == "0" or subject in ("0", "1", "2", "5"):
        return ""
    return "refused" if subject in OUR_FAULT else "soft"


def judge_words(words: str) -> Judgement:
    """Return the severity by the words alone, "" when they say nothing that is known."""
    if is_policy(words):
        return "refused"
    sentence = _read_sentence(words)
    if LATER_WORDS.search(sentence) or NETWORK_WORDS.search(sentence):
        return "soft"
    return "hard" if DEAD_WORDS.search(sentence) else ""


def is_policy(words: str) -> bool:
    """Return whether a refusal is about who sends, how much or what is sent."""
    sentence = _read_sentence(words)
    return POLICY_WORDS.search(sentence) is not None or OUR_LIMIT.search(sentence) is not None


def _read_sentence(words: str) -> str:
    """Return a refusal on one line, without names and enhanced codes."""
    return " ".join(_ENHANCED.sub(" ", _NAMES.sub(" ", _NO_ENTRY.sub(r"\1", words))).split())
