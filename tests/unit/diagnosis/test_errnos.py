"""The errno in a text: by name, number, and a C library's words in any language, misspelt or not."""

from __future__ import annotations

import pytest

from fork_trace.diagnosis import errnos, translations

# As glibc's po files have them: Resource temporarily unavailable, Cannot allocate memory.
LANGUAGES = [
    ("zh_CN", "资源暂时不可用", "无法分配内存"),
    ("zh_TW", "資源暫時無法取得", "無法配置記憶體"),
    ("ja", "リソースが一時的に利用できません", "メモリを確保できません"),
    ("ko", "자원이 일시적으로 사용 불가능함", "메모리를 할당할 수 없습니다"),
    ("de", "Die Ressource ist zur Zeit nicht verfügbar", "Nicht genügend Hauptspeicher verfügbar"),
    ("fr", "Ressource temporairement non disponible", "Ne peut allouer de la mémoire"),
    ("es", "Recurso no disponible temporalmente", "No se pudo asignar memoria"),
    ("pt_BR", "Recurso temporariamente indisponível", "Não foi possível alocar memória"),
    ("ru", "Ресурс временно недоступен", "Невозможно выделить память"),  # noqa: RUF001
    ("it", "Risorsa temporaneamente non disponibile", "Impossibile allocare memoria"),
    ("pl", "Zasoby chwilowo niedostępne", "Nie można przydzielić pamięci"),
    ("sv", "Resursen tillfälligt otillgänglig", "Kan inte allokera minne"),
]


@pytest.mark.parametrize(("language", "again", "memory"), LANGUAGES)
def test_the_words_of_other_languages_tell_the_errno(
    language: str, again: str, memory: str
) -> None:
    assert again in translations.WORDS[language]["EAGAIN"]
    assert memory in translations.WORDS[language]["ENOMEM"]
    for words, name in ((again, "EAGAIN"), (memory, "ENOMEM")):
        assert name == errnos.told(f"-bash: fork: {words}")
        assert name == errnos.named(words.upper())


def test_no_words_of_one_language_mean_another_errno_elsewhere() -> None:
    meanings: dict[str, set[str]] = {}
    for words, name in translations.BY_WORDS:
        meanings.setdefault(words, set()).add(name)

    assert {} == {words: names for words, names in meanings.items() if len(names) > 1}


def test_each_translation_is_found_within_a_line() -> None:
    told = {words: errnos.told(f"x: {words}", is_typed=False) for words, _ in translations.BY_WORDS}

    assert len(told) > 500
    assert {words: name for words, name in translations.BY_WORDS} == told


@pytest.mark.parametrize(
    ("text", "name"),
    [
        # by name
        ("spawn EAGAIN", "EAGAIN"),
        ("Unix.Unix_error(Unix.EAGAIN, fork)", "EAGAIN"),
        ("Errno::ENOMEM", "ENOMEM"),
        ("= -1 EAGAIN (Resource temporarily unavailable)", "EAGAIN"),
        ("{eagain,[{erlang,open_port", "EAGAIN"),
        # by number
        ("error code: 11", "EAGAIN"),
        ("failed with status: 11", "EAGAIN"),
        ("(os error 12)", "ENOMEM"),
        ("errno=11", "EAGAIN"),
        ("errno: 12", "ENOMEM"),
        ("(errno= 11)", "EAGAIN"),
        ("[Errno 12]", "ENOMEM"),
        ("error=12, Not enough space", "ENOMEM"),
        ("System error #11", "EAGAIN"),
        ("[system:11]", "EAGAIN"),
        ("Os { code: 11, kind: WouldBlock }", "EAGAIN"),
        ("returned -12", "ENOMEM"),
        ("failed: -11", "EAGAIN"),
        ("failed (11: x)", "EAGAIN"),
        ("depinfo = 12", "ENOMEM"),
        ("return code from pthread_create() is 11", "EAGAIN"),
        ("Check failed: ret == 0 (11 vs. 0)", "EAGAIN"),
        ("drbd: couldn't start thread (-4)", "EINTR"),
        ("Couldn't create thread. Error 0xc", "ENOMEM"),
        ("OSError: [Errno 35]", "EAGAIN"),
        # by words: glibc, musl, bionic, Go
        ("resource temporarily unavailable", "EAGAIN"),
        ("fork: Out of memory", "ENOMEM"),
        ("pthread_create failed: Try again", "EAGAIN"),
        ("No more processes.", "EAGAIN"),
        ("No file descriptors available", "EMFILE"),
        ("Resource busy", "EBUSY"),
        ("Result not representable", "ERANGE"),
        ("could not allocate memory", "ENOMEM"),
        ("Failed to allocate memory", "ENOMEM"),
        ("resource is temporarily unavailable", "EAGAIN"),
        # misspelt
        ("cannot allocate memrory", "ENOMEM"),
        ("canot alocate memory", "ENOMEM"),
        ("can not allocate memory", "ENOMEM"),
        ("Resource temporarly unavailable", "EAGAIN"),
        ("resouce temporarily unavailble", "EAGAIN"),
        ("Operation not permited", "EPERM"),
        ("No space left on devcie", "ENOSPC"),
        ("to many open files", "EMFILE"),
    ],
)
def test_a_text_tells_its_errno(text: str, name: str) -> None:
    assert name == errnos.told(text)


@pytest.mark.parametrize(
    "text",
    [
        "exit status 1",
        "exited with code 12 bananas"[:16],
        "sshd[11]: hello",
        "make: *** [all] Error 1",
        "pid 12 started",
        "possibly out of memory or process/resource limits reached",
        "if you are not out of available memory",
        "trying again in 5 seconds",
        "Please try again later",
        "[haproxy.main()] (1) : cannot",
        "job 11 of 12",
        "getaddrinfo EAI_AGAIN",
        "memory",
    ],
)
def test_a_text_without_an_errno_tells_none(text: str) -> None:
    assert errnos.told(text) is None


def test_a_log_is_not_searched_for_what_is_misspelt() -> None:
    assert errnos.told("cannot allocate memrory", is_typed=False) is None


@pytest.mark.parametrize(
    ("word", "wanted", "is_like"),
    [
        ("memrory", "memory", True),
        ("mmeory", "memory", True),
        ("memry", "memory", True),
        ("memory", "memory", True),
        ("mammary", "memory", False),
        ("unavailable", "unavailable", True),
        ("unavialble", "unavailable", False),
        ("abc", "abd", False),
    ],
)
def test_a_misspelt_word_is_near_enough(word: str, wanted: str, is_like: bool) -> None:
    assert is_like == errnos.is_like(word, wanted)


def test_a_long_text_does_not_take_long() -> None:
    # Nobody can make it slow: what may be misspelt is looked for in the first words only.
    assert errnos.told("resorce temporary " * 20000) is None
