"""The roles of Redis users, and their rights.

- ``roles``: producer, worker, operator and read-only. A role is a set of transitions and commands. The keys and
  commands that it needs follow from the scripts.
- ``acl``: the ACL file with one user for each role.

When a process does what its role may not do, Redis refuses the command and changes nothing, and the caller gets
`PermissionDeniedError` with the roles that have the right.

Nothing here has a state or is lost in a crash. The rights are in the ACL file of the server.
"""
