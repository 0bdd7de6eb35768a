// What -Wold-style-cast, -Wconversion, -Wshadow and -Wunused-parameter refuse, and a consumer may
// write: the flags of our own builds are ours.
namespace careless {

int Halve(int value, int) {
  double half = (double)value / 2;
  int result = half;
  {
    int result = 1;
    half += result;
  }
  return result;
}

}  // namespace careless
