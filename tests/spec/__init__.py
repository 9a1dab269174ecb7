"""The system through its front doors. Read these tests to learn the product."""
