"""The services that tests start: a manager, an ops plane, a whole service, a program, a browser, a backend."""
