"""bireme in twenty lines: a pool, a map with a progress bar, one call, a stream, an error with its story."""

import bireme


def is_prime(number):
    return number > 1 and all(number % factor for factor in range(2, int(number**0.5) + 1))


# No `if __name__ == "__main__":` is needed, and lambdas travel too.
numbers = range(1_000_000, 1_020_000)
print(sum(bireme.map(is_prime, numbers)), "primes between", numbers[0], "and", numbers[-1])

with bireme.Pool(2) as pool:
    print(pool.map(lambda x: x * x, range(10), progress=True))
    print(pool.apply(divmod, (17, 5)))
    print(sorted(pool.imap_unordered(abs, [-3, -2, -1])))
    try:
        pool.map(lambda x: 1 / x, [2, 1, 0])
    except ZeroDivisionError as error:
        print("the task failed:", error)
