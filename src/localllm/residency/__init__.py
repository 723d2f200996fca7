"""Models in memory: shared by their handles, let go of when idle, back at their next use, and watched.

Reading order, from values to what holds them together:

    events        what can be seen of a manager: events and snapshots
    picture       events into snapshots
    feed, board   events on their way to subscribers, in one order for all
    subscription  a listener on a thread of its own, and the plain iterator

    figures, room           the sum of a model's figures; which models make room: pure
    identity, reckoning     which loads are the same; what they will take
    bringing                a load as the backend does it
    ticket, requests        one request on its way, and all of a model
    loading, fetching       one load, and downloads, on their way
    resident, lease         one model, in memory or not, and a handle's share in it
    keeper, residents       does what is due; the table of all of a manager's models

Nothing here knows what a model is: that is the backend's.
"""
