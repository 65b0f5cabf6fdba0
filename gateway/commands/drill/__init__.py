"""
`sluice drill`: a burst of real clients on real sockets against simulated workers, before the real burst comes.

`scenario` draws who comes when, `client` and `events` are one client, `crowd` is all of them; `stage` brings up an
installation of its own, `target` finds one that runs; `engines` hosts the simulated workers; `hangups` and `watch`
measure from outside; `figures` defines every number of the result, `screen` and `picture` show it.
"""
