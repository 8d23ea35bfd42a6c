"""Take up a change on this machine wholly or not at all: ``python -m mlflow_service.change COMMAND CONFIG_DIR``.

A change is another release, other files (settings, credentials, units), a migrated schema, a restored
backup, or several of them. Ansible has put the release and the files in place and kept what the files
replaced (module ``managed_files``). The commands, all for root:

``take-up``  reads a `Request` from standard input, takes the change up and prints a `Report`, both JSON.
             The new server starts without clients, which wait at the socket, and is checked; only then
             they are let in. So going back loses nothing that a client was told is stored.
``plan``     reads a `Request` and prints a `Plan`; changes nothing.
``gate``     systemd runs it before each start of the server. A start in the midst of a change waits; a
             start after a change that was killed, or never taken up, first goes back to what ran before.
``recover``  goes back if a change was killed, and starts the server; systemd runs it after ``take-up``.
``begin``    reads a `Request` with a `Request.place` among servers that share a store, has systemd run
             ``take-up`` with it, and returns as soon as that waits for a word, or has ended.
``say``      gives it a `Word` from standard input, and returns in the same way. Both print the `Report`.

What is under way stands in ``change.json`` beside the files that were replaced, so that a machine that
loses its power knows it, too.

Servers that share a store change their data together. Each stops, and its clients wait at its socket. Then
the first one backs up, migrates and starts without clients, then the others start so. Each is checked. Only
if all have passed, the first one lets its clients in, and from then on there is no way back; then the others
do. Who tells them is the Ansible run. If it dies, the first one goes back, or has let its clients in before.

Each file says one thing: model.py what a change is, machine.py what is found and left on the machine, asking.py
what the wanted release says of the data, planning.py what the change would mean for them, taking.py the way
forward, back.py the way back, words.py how it is told to go on, gate.py what a start of the server and the end of
a change look at, command.py the commands.
"""
