"""Access control: the roles of Redis users, and the ACL file that grants their rights.

=========  ==================================================================================
`roles`    `Role`: the transitions, commands, keys and channels of each role
`rights`   which rights of a role a user lacks; each worker asks when it starts
`acl`      the ACL file of a server: ``python -m stepflow_broker.access.acl > users.acl``
=========  ==================================================================================

There are four roles: producer, worker, operator and read-only. Redis enforces them, and stepflow has no other access
control. The rights of a role follow from the scripts that it runs, so a change of a script changes the ACL file. A
test compares the file in deploy/redis-acl/ with the generated one.

This package has no state and connects to no server. A server with an old ACL file refuses new commands with NOPERM,
before a script writes anything, and the caller gets `PermissionDeniedError` with the roles that have the right.

This package imports `stepflow_broker.protocol` and the engine. It must not import the client: the client uses the
roles for its error messages.
"""
