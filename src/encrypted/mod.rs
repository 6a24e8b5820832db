//! A bucket whose objects are read and written as plaintext.
