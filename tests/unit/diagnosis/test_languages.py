# ruff: noqa: RUF001
"""Lines as programs print them in German, Spanish, French, Chinese and Japanese, made of their own catalogs and glibc's."""

from __future__ import annotations

import pytest

from fork_trace.diagnosis import lookup

# kind, errno ("-": it tells none), text
LINES = """
process|EAGAIN|-bash: fork: retry: Die Ressource ist zur Zeit nicht verfügbar
process|ENOMEM|bash: fork: Nicht genügend Hauptspeicher verfügbar
process|ENOMEM|-bash: fork: No se puede asignar memoria
process|ENOMEM|bash: fork: No se pudo asignar memoria
process|EAGAIN|bash: fork: Ressource temporairement non disponible
process|ENOMEM|-bash: fork: 无法分配内存
process|EAGAIN|-bash: fork: retry: 资源暂时不可用
process|EAGAIN|-bash: fork: リソースが一時的に利用できません
process|EAGAIN|gnome-shell[2211]: Abspalten des Kindprozesses »/usr/bin/true« gescheitert (Die Ressource ist zur Zeit nicht verfügbar)
process|ENOMEM|xargs: Es konnte kein neuer Prozess gestartet werden.: Nicht genügend Hauptspeicher verfügbar
process|EAGAIN|adduser: Le fourchage de « find » a échoué : Ressource temporairement non disponible
process|ENOMEM|no se pudo hacer «fork» para ejecutar mount para analizar los puntos de montaje: No se pudo asignar memoria
process|EAGAIN|创建"find"子进程失败：资源暂时不可用
process|-|split: fork システムコールが失敗しました
process|-|timeout: Systemruf fork fehlgeschlagen
thread|EAGAIN|Schwerwiegend: kann Thread nicht erzeugen: Die Ressource ist zur Zeit nicht verfügbar
thread|EAGAIN|fatal: impossible de créer le fil : Ressource temporairement non disponible
thread|EAGAIN|fatal: grep：无法创建线程：资源暂时不可用
thread|ENOMEM|fatal: no es posible crear hilo: No se pudo asignar memoria
not-a-fork|EMFILE|bash: Kann keine Pipe für die Kommandoersetzung erzeugen.: Zu viele offene Dateien
not-a-fork|EMFILE|无法创建管道: 打开的文件过多
process|-|Es konnte kein neuer Prozess gestartet werden.
process|EAGAIN|postgres[812]: LOG:  konnte neuen Prozess für Verbindung nicht starten (fork-Fehler): Die Ressource ist zur Zeit nicht verfügbar
process|ENOMEM|FATAL:  no se pudo lanzar el nuevo proceso para la conexión: No se pudo asignar memoria
process|ENOMEM|FATAL:  n'a pas pu lancer le nouveau processus fils pour la connexion : Ne peut allouer de la mémoire
"""


@pytest.mark.parametrize("line", LINES.strip().splitlines())
def test_a_line_in_another_language_is_known_for_what_it_is(line: str) -> None:
    kind, error, text = line.split("|", 2)
    answer = lookup.look_up([text])

    assert (kind, error) == (answer.kinds[0], answer.errno or "-")
