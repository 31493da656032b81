"""Several servers that are one: requests go where there is most room, and survive the loss of a
replica, as equal seeds give equal samples everywhere."""
