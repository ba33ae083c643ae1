"""What is read: tables, figures and pages of a study."""
