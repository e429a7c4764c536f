"""The tests, as a package: so files of one name can stand in two folders, and share tests.support."""
