"""A grammar becomes a set of next tokens: the automaton of a form, and a vocabulary of byte strings.

A token is some bytes. It may come next if the answer so far, and its bytes behind it, are the beginning of a text of
the grammar. Willard & Louf 2023, section 3, compute that set for each state of a regex's automaton before decoding, in
memory that grows with states times tokens. llguidance, which does it here, computes the set of the present state on
demand: it walks over a prefix tree of all tokens, and drops a subtree at the first byte that the automaton refuses. For
what no finite automaton reads (nested brackets) an Earley parser stands above the automata.

Tokens are given to it as the bytes that `text/spelling.py` reads: any vocabulary that is loaded here works. One more
token stands behind them, which no model has: where it is allowed, the answer may end.

A model that thinks before it answers thinks what it likes (thoughts.py).

What a stranger sends may be made to explode. Time and memory have limits, counted in steps of the library's own. A text
has at most MAX_TEXT letters, and is compiled on a thread with a large stack: a rule that names a rule, a thousand
times, overflows a small one, and takes the process with it. Copies of a matcher share the library's lexer, whose states
add up over all answers of a grammar: an answer that meets their limit compiles the grammar once more, for itself alone,
and the next new answer gets a new lexer, too.

Wins: any form, at 0.1 ms for a token. Loses: keywords of JSON Schema that a set of next tokens cannot follow
(uniqueItems, not) narrow what may be written (narrower.py), or are refused, by their names.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from tinyinfer.errors import RoomError, SwitchError
from tinyinfer.guided.bars import STUCK, Allowed, Bars
from tinyinfer.guided.narrower import narrower
from tinyinfer.guided.schemas import plainer
from tinyinfer.guided.thoughts import SPACE, behind_a_thought
from tinyinfer.sampling_params import GRAMMARS, SamplingParams
from tinyinfer.text.reasoning import Thinking
from tinyinfer.text.tokenizer import Tokenizer

if TYPE_CHECKING:  # loaded on use: an extra
    from llguidance import LLMatcher, LLTokenizer

T = TypeVar("T")
Key = tuple[Tokenizer, str, str, Thinking | None]  # a tokenizer, a kind, a text and a thought, see `compiled`
MAX_TEXT = 65_536  # letters of a grammar
STACKS = threading.Lock()  # held while the size of new stacks, which is the process's, is another one
STACK = 256 * 2**20  # bytes: a letter of a grammar costs at most some 500; only what is used is taken
MAX_LEXER_STATES = 50_000  # of one lexer, at 1 to 2 KB each
END = b"<end>"
MALFORMED = "the schema is malformed: a keyword has a value of another type than it takes"
MOST_WORDS = 300  # letters of a message of the library


class Grammar:
    """A compiled grammar. spent: an answer met a fault in the lexer that all copies of the matcher share.

    key: what it is compiled from, see `compiled`. Raises ValueError, RecursionError and SwitchError.
    """

    def __init__(self, key: Key) -> None:
        self.key, self.spent = key, False
        self._first = self.anew()

    def anew(self) -> LLMatcher:
        """A matcher before the first token, with a lexer of its own. Takes 2 ms, for a schema of 48 KB 170 ms."""
        return on_large_stack(lambda: begun(*self.key))

    def after_a_fault(self) -> LLMatcher:
        """A matcher for the answer that met it; the next answer gets another one."""
        self.spent = True
        return self.anew()

    def answer(self) -> GrammarMatcher:
        """The matcher of a new answer."""
        if self.spent:
            self._first, self.spent = self.anew(), False
        return GrammarMatcher(self, self._first)


class GrammarMatcher:
    """Where one answer stands in its grammar (bars.Matcher). first: where it began.

    The library keeps an error for good, and a full lexer is full for all. So a fault that further tokens brought is
    gone when those are taken back; and a fault is believed when it comes in a lexer of the answer's own, too.
    """

    def __init__(self, grammar: Grammar, first: LLMatcher, own: bool = False) -> None:
        self._grammar, self._tokens = grammar, list[int]()
        self._begin(first, own)

    def __reduce__(self) -> tuple[Callable[..., GrammarMatcher], tuple[Key, list[int]]]:
        return behind, (self._grammar.key, self._tokens)

    def _begin(self, first: LLMatcher, own: bool) -> None:
        """Follows the answer's tokens from a beginning. own: its lexer is new, and no other answer's."""
        self._first, self._own = first, own
        self._matcher = first.deep_copy()
        self._matcher.consume_tokens(self._tokens)
        self._allowed: Allowed | None = None  # of the present state

    @property
    def fault(self) -> str:
        self.allowed()
        return shortened(self._matcher.get_error())

    def allowed(self) -> Allowed:
        if self._allowed is None:
            self._allowed = self._computed()
            if not self._own and shortened(self._matcher.get_error()) not in ("", STUCK):
                with suppress(RoomError):  # then the fault stays
                    self._begin(self._grammar.after_a_fault(), True)
                self._allowed = self._computed()
        return self._allowed

    def _computed(self) -> Allowed:
        marks = np.frombuffer(self._matcher.compute_logit_bias(), np.uint8)  # (N + 1,): not 0 where allowed
        return Allowed(marks[:-1] != 0, bool(marks[-1]))

    def follow(self, token: int) -> None:
        self._tokens.append(token)
        self._matcher.consume_token(token)
        self._allowed = None

    def take_back(self, n: int) -> None:
        if not n:
            return
        del self._tokens[-n:]
        if self._matcher.get_error():
            self._begin(self._first, False)
        else:
            self._matcher.rollback(n)
            self._allowed = None

    def restarted(self) -> GrammarMatcher:
        return GrammarMatcher(self._grammar, self._first, self._own)


def behind(key: Key, tokens: list[int]) -> GrammarMatcher:
    """The matcher of an answer that has these tokens."""
    matcher = compiled(*key).answer()
    for token in tokens:
        matcher.follow(token)
    return matcher


def bars(
    tokenizer: Tokenizer, params: SamplingParams, ends: frozenset[int], thinking: Thinking | None = None
) -> Bars:
    """What bars the tokens of a new answer. ends: the tokens that end it. thinking: see `compiled`.

    Raises SwitchError, which names the field, for a grammar that cannot be followed, and without llguidance.
    """
    given = [(name, getattr(params, name)) for name in GRAMMARS if getattr(params, name) is not None]
    matcher = compiled(tokenizer, *given[0], thinking).answer() if given else None
    bias, asked = tuple(dict(params.logit_bias).items()), frozenset(params.stop_token_ids)
    return Bars(ends, params.min_tokens, bias, matcher, asked)


@lru_cache(maxsize=32)
def compiled(tokenizer: Tokenizer, kind: str, text: str, thinking: Thinking | None = None) -> Grammar:
    """The grammar of a text. kind: the field that the text is from.

    thinking: the markers of the thought that may come before; None: none may. Raises SwitchError.
    """
    if len(text) > MAX_TEXT:
        reason = "{field} has {size} letters, and may have {most}"
        raise SwitchError(kind, text, reason, "write a shorter one", size=len(text), most=MAX_TEXT)
    try:
        import llguidance  # noqa: F401
    except ImportError:
        cure = "pip install 'tinyinfer[guided]'"
        raise SwitchError(kind, text, "{field} needs the module llguidance, which is not installed", cure) from None
    try:
        return Grammar((tokenizer, kind, text, thinking))
    except (ValueError, RecursionError) as error:
        why = shortened(str(error))
    raise SwitchError(kind, text, "{field} cannot be followed: {why}", "change that, or leave it out", why=why)


def begun(tokenizer: Tokenizer, kind: str, text: str, thinking: Thinking | None) -> LLMatcher:
    """A matcher before the first token. A schema that cannot be followed is narrowed to one that can.

    Of one that cannot be followed so, either, the library's words about it as it was given are said (ValueError).
    """
    if kind != "json_schema":
        return tried(tokenizer, kind, text, thinking)
    schema = json.loads(text)
    try:
        plain = plainer(schema)
    except (TypeError, AttributeError, LookupError):  # a keyword has a value of another type than it takes
        raise ValueError(MALFORMED) from None
    if not names_are_texts(plain):
        raise ValueError(MALFORMED)
    try:
        return tried(tokenizer, kind, written(plain), thinking)
    except ValueError as error:
        why = str(error)
    try:
        return tried(tokenizer, kind, written(plainer(narrower(schema))), thinking)
    except (ValueError, TypeError, AttributeError, LookupError, ArithmeticError):  # also what is no schema
        raise ValueError(why) from None


def written(schema: Any) -> str:
    """A schema as text. What allows all, or nothing, is written as the object that llguidance wants."""
    if isinstance(schema, bool):
        schema = {"allOf": [schema]}
    return json.dumps(schema, ensure_ascii=False)


def tried(tokenizer: Tokenizer, kind: str, text: str, thinking: Thinking | None) -> LLMatcher:
    """A matcher before the first token. Raises ValueError for a text without one: a dead end is found here."""
    from llguidance import LLMatcher

    if kind == "json_schema":
        form = started(tokenizer, LLMatcher.grammar_from_json_schema(text, defaults={"whitespace_pattern": SPACE}))
    else:
        make = {"regex": LLMatcher.grammar_from_regex, "grammar": LLMatcher.grammar_from_lark}[kind]
        form = started(tokenizer, make(text))
    if not thinking:
        return form
    both = started(tokenizer, LLMatcher.grammar_from_lark(behind_a_thought(kind, text, thinking, tokenizer)))
    return form if not thinking.opened and hides(both, form, thinking.start, tokenizer) else both


def started(tokenizer: Tokenizer, source: str) -> LLMatcher:
    """A matcher of a grammar in the library's own form. Raises ValueError."""
    from llguidance import LLMatcher, LLParserLimits

    limits = LLParserLimits(max_lexer_states=MAX_LEXER_STATES, verbose_errors=False)
    matcher = LLMatcher(vocabulary(tokenizer), source, log_level=0, limits=limits)
    matcher.compute_logit_bias()
    if fault := matcher.get_error():
        raise ValueError(fault)
    return matcher


def hides(both: LLMatcher, form: LLMatcher, marker: str, tokenizer: Tokenizer) -> bool:
    """Whether a thought that the model may open keeps an answer in the form from being written: one that begins like
    the marker, since of two words the longer one is read.
    """
    if any(map(marker.startswith, tokenizer.specials_in(marker).values())):
        return False  # a control token is no letter of an answer
    for end in range(1, len(marker) + 1):
        ids = vocabulary(tokenizer).tokenize_bytes(marker[:end].encode())
        if form.validate_tokens(ids) < len(ids):
            return False
        if end == len(marker) or allowed(form, ids) & ~allowed(both, ids):
            return True
    return False


def allowed(matcher: LLMatcher, ids: list[int]) -> int:
    """Which tokens may come behind these: a number with a byte for each token, 0 for none."""
    later = matcher.deep_copy()
    later.consume_tokens(ids)
    return int.from_bytes(later.compute_logit_bias(), "little")


def names_are_texts(value: object) -> bool:
    """Whether all names in a JSON value are texts; written as JSON, any other would become one."""
    if isinstance(value, dict):
        return all(isinstance(name, str) and names_are_texts(one) for name, one in value.items())
    return not isinstance(value, list) or all(map(names_are_texts, value))


@lru_cache(maxsize=4)
def vocabulary(tokenizer: Tokenizer) -> LLTokenizer:
    """The vocabulary as the library wants it; takes a fifth of a second for 50,000 tokens."""
    from llguidance import LLTokenizer, TokenizerWrapper

    return LLTokenizer(TokenizerWrapper(Spelled(tokenizer)))


class Spelled:
    """A tokenizer in the form that llguidance reads: the bytes of each token, and how a text is cut into tokens.

    The last token is no token of the model: it stands for the end of the answer.
    """

    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._encode = tokenizer.encode
        self.tokens = [*map(tokenizer.bytes_of, range(tokenizer.most_ids)), END]
        self.eos_token_id = len(self.tokens) - 1
        self.special_token_ids = [*tokenizer.special_ids, self.eos_token_id]
        special = set(self.special_token_ids)
        self._ids = {word: id for id, word in enumerate(self.tokens) if word and id not in special}
        self._longest = max(map(len, self._ids), default=0)

    def __call__(self, text: bytes | str) -> list[int]:
        """The tokens that a text is usually written with; where the grammar leaves no choice, these are taken."""
        words = text.encode("utf-8") if isinstance(text, str) else text
        ids = self._encode(words.decode("utf-8"), add_special_tokens=False)
        joined = b"".join(self.tokens[id] for id in ids)
        return ids if joined == words else self._greedy(words)

    def _greedy(self, words: bytes) -> list[int]:
        """The longest token at each place, up to a byte that no token begins with.

        For a tokenizer that changes a text, as SentencePiece's puts a space before it.
        """
        ids: list[int] = []
        start = 0
        while start < len(words):
            ends = range(min(len(words), start + self._longest), start, -1)
            end = next((end for end in ends if words[start:end] in self._ids), start)
            if end == start:
                return ids
            ids.append(self._ids[words[start:end]])
            start = end
        return ids


def on_large_stack(work: Callable[[], T]) -> T:
    """What `work` gives, done on a thread of its own. Raises RoomError where the system has no memory for the stack."""
    found: Future[T] = Future()
    with STACKS:
        before = threading.stack_size(STACK)
        try:
            threading.Thread(target=do, args=(found, work), name="tinyinfer grammar", daemon=True).start()
        except RuntimeError as error:
            raise RoomError("there is no memory to compile a grammar", "try again later") from error
        finally:
            threading.stack_size(before)
    try:
        return found.result()
    finally:
        del found  # it has the error, whose traceback has this frame: a circle


def do(found: Future[T], work: Callable[[], T]) -> None:
    """Does the work, and tells what came of it."""
    try:
        found.set_result(work())
    except BaseException as error:
        found.set_exception(error)
    finally:
        del found


def shortened(fault: str) -> str:
    """A message of the library in one line, without the state of its parser and the places in its source."""
    words = " ".join(re.split("<state>|<backtrace>|<non-verbose/>", fault)[0].split())
    if words.startswith("NoExtension"):
        return STUCK
    return words if len(words) <= MOST_WORDS else words[:MOST_WORDS] + " ..."
